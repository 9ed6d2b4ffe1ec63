"""One random stream per sample, so that no result depends on how samples are put into batches."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

_STRIDE = 1_000_003


def sample_seeds(seed: int, rows: Sequence[int]) -> list[int]:
    """A seed for each sample, from the run's seed and the sample's place in its split."""
    return [seed * _STRIDE + int(row) for row in rows]


def content_seeds(images: Tensor, seed: int) -> list[int]:
    """A seed for each image in [0,1], from its pixels as bytes and the run's seed; no image's depends on others."""
    pixels = (images.detach().cpu() * 255).round().to(torch.uint8).numpy()
    hashed = (hashlib.sha256(f"{seed} ".encode() + one.tobytes()).digest() for one in pixels)
    return [int.from_bytes(digest[:7]) for digest in hashed]


def generator(seed: int) -> Generator:
    """A CPU stream that starts at ``seed``; random numbers are drawn on the CPU so that devices agree."""
    return torch.Generator().manual_seed(seed)


def draw_each(seeds: Sequence[int], draw: Callable[[Generator], Tensor]) -> Tensor:
    """What ``draw`` makes from each sample's own stream, stacked to ``(n, ...)``."""
    return torch.stack([draw(generator(seed)) for seed in seeds])
