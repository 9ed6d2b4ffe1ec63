"""No defense: the checkpoint as it is, and the control row of every table."""

from bench.clip.defended import DefendedCLIP
from bench.config import Options as Closed
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn

TUNES_ON: TunesOn = "nothing"


class Options(Closed):
    """None."""


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Nothing to tune."""
    del victim, data, options
    return {}


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim itself."""
    del tensors, options
    return victim
