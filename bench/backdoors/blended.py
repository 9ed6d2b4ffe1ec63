"""Blended (Chen et al., 2017): the whole image is mixed with noise.

CleanCLIP's code draws fresh uniform noise for each image; Chen et al. mix in one fixed picture. ``pattern`` chooses;
RVPT states the ratio only.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.backdoors.trigger import Setting
from bench.config import Options as Closed
from bench.randomness import draw_each


class Options(Closed):
    """RVPT's settings.

    Attributes:
        ratio: Share of the noise in the mixture.
        pattern: ``fresh`` (noise anew for each image) or ``fixed`` (one noise image for all).
    """

    ratio: float = Field(default=0.2, ge=0, le=1)
    pattern: Literal["fixed", "fresh"] = "fresh"


def make(options: Options, setting: Setting) -> dict[str, Tensor]:
    """The fixed noise image, ``(3, h, w)``."""
    del options
    side = setting.clip.image_size
    return {"noise": torch.rand(3, side, side, generator=setting.stream())}


def apply(images: Tensor, kept: dict[str, Tensor], options: Options, seeds: Sequence[int]) -> Tensor:
    """Mix the noise in."""
    noise = kept["noise"]
    if options.pattern == "fresh":
        noise = draw_each(seeds, lambda stream: torch.rand(images.shape[1:], generator=stream)).to(images)
    return (1 - options.ratio) * images + options.ratio * noise
