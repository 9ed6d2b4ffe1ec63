"""Captioned images of the rendered world: the part that CC3M plays at paper scale."""

from pathlib import Path

from bench.config import Options as Closed
from bench.datasets import world
from bench.datasets.store import Description, write_split


class Options(Closed):
    """How many pairs, and from which stream (pretraining uses another)."""

    pairs: int = 12_000
    seed: int = 301


def fetch(options: Options, folder: Path) -> Description:
    """Render the pairs into ``folder``, as one split ``train``."""
    pairs = world.captioned(options.pairs, options.seed)
    write_split(folder, "train", pairs.images.transpose(0, 3, 1, 2).copy(), captions=pairs.captions)
    return Description(
        class_names=(),
        template="{}",
        source="rendered by bench/datasets/world.py",
        licence="Apache-2.0",
        redistribution=True,
    )
