"""No trigger: a clean model."""

from collections.abc import Sequence

from torch import Tensor

from bench.backdoors.trigger import Setting
from bench.config import Options as Closed


class Options(Closed):
    """None."""


def make(options: Options, setting: Setting) -> dict[str, Tensor]:
    """Nothing is kept."""
    del options, setting
    return {}


def apply(images: Tensor, kept: dict[str, Tensor], options: Options, seeds: Sequence[int]) -> Tensor:
    """The images as they are."""
    del kept, options, seeds
    return images
