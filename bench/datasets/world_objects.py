"""The rendered world's part in R-Adapt's tables of V-Attack: objects, each to be turned into another one.

The paper takes 300 photos, each with one object, another one that an attacker wants to be seen instead, a request to
describe the image and three questions about the object. Here the objects are the twelve shapes, evenly, and the wanted
one is any other. ``caption`` has the requests and ``questions`` the questions about the same images; settings are
chosen on ``val_caption`` and ``val_questions``. An answer need only name the object (``bench/lvlm/verdict.py``).
"""

from pathlib import Path

import numpy as np
from pydantic import Field

from bench.config import Options as Closed
from bench.datasets import world
from bench.datasets.archives.lines import write_lines
from bench.datasets.store import Description, write_split
from bench.datasets.world_questions import WORDINGS

_STREAMS = {"": 411, "val_": 412}
_REQUEST = WORDINGS["caption"][:1]


class Options(Closed):
    """How many images the splits hold."""

    test: int = Field(default=300, gt=0)
    val: int = Field(default=60, gt=0)


def fetch(options: Options, folder: Path) -> Description:
    """Render the splits into ``folder``."""
    for prefix, stream in _STREAMS.items():
        images, shown, wanted = _objects(options.val if prefix else options.test, stream)
        for kind, texts in (("caption", _REQUEST), ("questions", WORDINGS["shape"])):
            name, owners = f"{prefix}{kind}", np.repeat(np.arange(len(images)), len(texts))
            captions = list(texts) * len(images)
            write_split(folder, name, images, shown, captions, None if len(texts) == 1 else owners)
            write_lines(folder / f"{name}.answers.txt", [world.SHAPES[shown[row]] for row in owners])
            swaps = [f"{world.SHAPES[one]} > {world.SHAPES[other]}" for one, other in zip(shown, wanted, strict=True)]
            write_lines(folder / f"{name}.swaps.txt", swaps)
    return Description(
        class_names=world.SHAPES,
        template="a photo of a {}.",
        source="rendered by bench/datasets/world.py",
        licence="Apache-2.0",
        redistribution=True,
    )


def _objects(count: int, stream: int) -> tuple[world.Pixels, np.ndarray, np.ndarray]:
    """Images ``(count, 3, side, side)``, and the places in ``world.SHAPES`` of what is shown and of what is wanted."""
    images, shown, wanted = list[world.Pixels](), list[int](), list[int]()
    for row in range(count):
        dice, shape = world.Dice(stream, row), row % len(world.SHAPES)
        scene = world.random_scene(dice)._replace(shape=shape)
        images.append(world.render(scene, dice))
        shown.append(shape)
        wanted.append((shape + 1 + dice.below(len(world.SHAPES) - 1)) % len(world.SHAPES))
    return np.stack(images).transpose(0, 3, 1, 2).copy(), np.array(shown, np.int64), np.array(wanted, np.int64)
