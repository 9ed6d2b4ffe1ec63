"""A surrogate that needs no training: a small CLIP whose weights ship with the package.

It must not be the model that a suite attacks; ``mini_small`` serves against ``mini``, and the other way round.
"""

from pathlib import Path

from torch import nn

from bench.clip.defended import Task
from bench.clip.model import Base, Clip, build, load
from bench.config import Options as Closed
from bench.surrogates.contract import Gives, Tensors
from bench.surrogates.plain import zero_shot

GIVES: Gives = "logits"


class Options(Closed):
    """Which model.

    Attributes:
        architecture: A small CLIP with shipped weights.
    """

    architecture: str = "mini_small"


def make(options: Options, data: Path) -> Tensors:
    """The shipped weights.

    Raises:
        UserError: There are none for this architecture.
    """
    del data
    return load(Base(architecture=options.architecture, weights="shipped")).model.state_dict()


def restore(tensors: Tensors, options: Options, task: Task) -> nn.Module:
    """The zero-shot classifier for ``task``."""
    return zero_shot(clip(tensors, options), task)


def clip(tensors: Tensors, options: Options) -> Clip:
    """The model itself."""
    made = build(options.architecture)
    made.model.load_state_dict(tensors)
    return made
