"""No trigger: a clean model."""

from collections.abc import Sequence

from torch import Generator, Tensor

from bench.config import Options as Closed


class Options(Closed):
    """None."""


def draw(options: Options, image_size: int, stream: Generator) -> dict[str, Tensor]:
    """Nothing is kept."""
    del options, image_size, stream
    return {}


def apply(images: Tensor, kept: dict[str, Tensor], options: Options, seeds: Sequence[int]) -> Tensor:
    """The images as they are."""
    del kept, options, seeds
    return images
