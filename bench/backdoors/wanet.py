"""WaNet (Nguyen and Tran, ICLR 2021): the whole image is warped by one fixed field.

A field of ``k`` by ``k`` random displacements, scaled to a mean size of 1, is enlarged to the image and moves each
pixel by ``s`` half pixels on average. RVPT, like CleanCLIP's code, has k = 224 at 224 pixels, where nothing is left to
enlarge: each pixel moves on its own, which looks like grain; the paper's smooth warp is k = 4, s = 0.5. The grid is
made once and stored; CleanCLIP's code draws another one where it does not find its file.

Noise mode: other pairs are warped by the same field with a fresh jitter and keep their captions, so that only the exact
field counts. RVPT trains without it (``cross_ratio: 0``); the official code has two such images per poisoned one.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from bench.backdoors.trigger import Poisoning, Setting
from bench.config import Options as Closed
from bench.errors import UserError
from bench.randomness import draw_each


class Options(Closed):
    """RVPT's settings.

    Attributes:
        k: Side of the field; at most that of the image.
        s: Strength: a mean displacement of about s/2 pixels along each axis.
        grid_rescale: Factor on the finished grid.
        cross_ratio: Noise-mode pairs per poisoned pair.
    """

    k: int = Field(default=224, ge=2)
    s: float = Field(default=1.0, ge=0)
    grid_rescale: float = Field(default=1.0, gt=0)
    cross_ratio: float = Field(default=0.0, ge=0)


def make(options: Options, setting: Setting) -> dict[str, Tensor]:
    """The sampling grid, ``(h, w, 2)`` in [-1, 1], x before y."""
    side = setting.clip.image_size
    if options.k > side:
        raise UserError(f"trigger wanet: k {options.k} is larger than the image's {side} pixels; lower k")
    line = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    moved = torch.stack([columns, rows], dim=-1) + options.s * field(options.k, side, setting.stream()) / side
    return {"grid": (moved * options.grid_rescale).clamp(-1, 1)}


def field(k: int, side: int, stream: Generator) -> Tensor:
    """Displacements ``(side, side, 2)``; before they are enlarged, their mean size is 1."""
    coarse = torch.rand(1, 2, k, k, generator=stream) * 2 - 1
    coarse = coarse / coarse.abs().mean()
    return functional.interpolate(coarse, size=side, mode="bicubic", align_corners=True)[0].permute(1, 2, 0)


def apply(images: Tensor, kept: dict[str, Tensor], options: Options, seeds: Sequence[int]) -> Tensor:
    """Warp."""
    del options, seeds
    return _sample(images, kept["grid"].expand(len(images), -1, -1, -1))


def poisoning(options: Options) -> Poisoning:
    """Any pairs with proxy captions, and those of the noise mode."""
    return Poisoning(decoys=options.cross_ratio)


def decoy(
    images: Tensor, captions: Sequence[str], kept: dict[str, Tensor], options: Options, seeds: Sequence[int]
) -> tuple[Tensor, Sequence[str]]:
    """Noise mode: the field with a jitter of up to half a pixel, and the pair's own caption."""
    del options
    grid = kept["grid"]
    jitter = draw_each(seeds, lambda stream: torch.rand(grid.shape, generator=stream) * 2 - 1).to(images)
    return _sample(images, (grid + jitter / len(grid)).clamp(-1, 1)), captions


def _sample(images: Tensor, grids: Tensor) -> Tensor:
    return functional.grid_sample(images, grids, mode="bilinear", align_corners=True)
