"""Which shape in which colour, 96 classes: the fine-grained task over the rendered world."""

from pathlib import Path

from bench.datasets import world
from bench.datasets.store import Description
from bench.datasets.world_task import Options as TaskOptions
from bench.datasets.world_task import fetch_task

_PAIRS = [(shape, colour) for shape in range(len(world.SHAPES)) for colour in range(len(world.COLOURS))]


class Options(TaskOptions):
    """As for the other tasks, with fewer images of each of the 96 classes."""

    train_per_class: int = 16
    val_per_class: int = 4
    test_per_class: int = 8


def fetch(options: Options, folder: Path) -> Description:
    """Render all splits into ``folder``."""
    names = [f"{world.COLOURS[colour]} {world.SHAPES[shape]}" for shape, colour in _PAIRS]
    return fetch_task(
        options,
        folder,
        names,
        "a photo of a {}.",
        lambda label, scene: scene._replace(shape=_PAIRS[label][0], colour=_PAIRS[label][1]),
    )
