"""VPT-deep, deep visual prompt tuning (Jia et al., ECCV 2022), as the RVPT paper ablates it: RVPT without repulsion.

The same prompts, data and optimiser as ``rvpt``, tuned with cross-entropy alone.
"""

from typing import Literal

from bench.clip.defended import DefendedCLIP
from bench.defenses import rvpt
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn

TUNES_ON: TunesOn = "labels"


class Options(rvpt.Options):
    """Those of ``rvpt``, with ``alpha`` at 0."""

    alpha: Literal[0] = 0  # pyright: ignore[reportIncompatibleVariableOverride]


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune one set of prompts ``(b, width)`` for each prompted block; keys are ``prompt.<layer>``."""
    return rvpt.fit(victim, data, options)


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the prompts in its image tower."""
    return rvpt.load(tensors, victim, options)
