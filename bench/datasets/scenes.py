"""Rendered scenes with five captions each, for retrieval: the part that Flickr30k plays at paper scale.

No two images of a split show the same scene. Captions leave things out, so images may still share a sentence.
"""

from pathlib import Path

import numpy as np
from pydantic import Field

from bench.config import Options as Closed
from bench.datasets import world
from bench.datasets.store import Description, write_split

_STREAMS = {"val": 302, "test": 303}
_KINDS = (len(world.SHAPES), len(world.COLOURS), len(world.BACKGROUNDS), len(world.SIZES))


class Options(Closed):
    """How many images each split has, and how many captions each image."""

    images: int = Field(default=200, gt=0, le=int(np.prod(_KINDS)))
    captions_per_image: int = Field(default=5, gt=0)


def fetch(options: Options, folder: Path) -> Description:
    """Render the splits into ``folder``."""
    for name, stream in _STREAMS.items():
        chosen = world.Dice(stream).order(int(np.prod(_KINDS)))[: options.images]
        images, captions = np.empty((options.images, 3, world.SIDE, world.SIDE), np.uint8), list[str]()
        for row, number in enumerate(chosen):
            scene = world.Scene(*(int(place) for place in np.unravel_index(number, _KINDS)))
            dice = world.Dice(stream, row)
            images[row] = world.render(scene, dice).transpose(2, 0, 1)
            captions += [world.caption(scene, dice) for _ in range(options.captions_per_image)]
        owners = np.repeat(np.arange(options.images, dtype=np.int64), options.captions_per_image)
        write_split(folder, name, images, captions=captions, owners=owners)
    return Description(
        class_names=(),
        template="{}",
        source="rendered by bench/datasets/world.py",
        licence="Apache-2.0",
        redistribution=True,
    )
