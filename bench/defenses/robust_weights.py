"""An image tower that was made robust elsewhere, in the place of the victim's: published or own weights, by name.

``fare2``, ``fare4``, ``tecoa2`` and ``tecoa4`` (ViT-L/14) are those of FARE's authors. Put it before ``r_adapt_m`` to
take the anchor from it.
"""

from pathlib import Path

from bench.clip.defended import DefendedCLIP
from bench.clip.model import Base
from bench.clip.model import load as load_clip
from bench.clip.staged import StagedCLIP
from bench.config import Options as Closed
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tower import load_tower, tower_tensors
from bench.errors import UserError

TUNES_ON: TunesOn = "nothing"


class Options(Closed):
    """Which weights.

    Attributes:
        weights: As in the ``base`` of a checkpoint, for the victim's architecture: a name, or a safetensors file.
    """

    weights: str = "fare4"


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Copy the image tower; keys are ``tower.*``.

    Raises:
        UserError: The weights belong to another architecture than the victim's, or cannot be had.
    """
    del data
    architecture = victim.staged.clip.architecture
    return tower_tensors(DefendedCLIP(StagedCLIP(load_clip(Base(architecture=architecture, weights=options.weights)))))


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the robust image tower."""
    del options
    return load_tower(tensors, victim, "robust_weights")


def reads(options: Options) -> list[Path]:
    """The file of weights, where one is named.

    Raises:
        UserError: It is missing.
    """
    if not options.weights.endswith(".safetensors"):
        return []
    if not Path(options.weights).exists():
        raise UserError(f"robust_weights.weights: {options.weights} is missing; name a file that is there")
    return [Path(options.weights)]
