"""Classification tasks over the rendered world: what all of ``shapes``, ``colours``, ... share."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.config import Options as Closed
from bench.datasets import world
from bench.datasets.store import Description, write_split

# Each split draws from a stream of its own; the pretraining images come from yet another (bench/clip/pretrain.py).
# 103 is no longer used: its images were looked at while a defense's settings were chosen.
_STREAMS: dict[str, tuple[int, world.Style]] = {
    "train": (101, "photo"),
    "val": (102, "photo"),
    "test": (107, "photo"),
    "sketch": (104, "sketch"),
    "unseen": (105, "unseen"),
    "noise": (106, "noise"),
}


class Options(Closed):
    """How many images of each class the splits hold; the shifted test sets are as large as ``test``."""

    train_per_class: int = 64
    val_per_class: int = 20
    test_per_class: int = 50


def fetch_task(
    options: Options,
    folder: Path,
    class_names: Sequence[str],
    template: str,
    scene_of: Callable[[int, world.Scene], world.Scene],
) -> Description:
    """Render the splits of one task, evenly over its classes.

    Args:
        options: Sizes of the splits.
        folder: Where to write them.
        class_names: Names of the classes, in the order of their labels.
        template: Prompt with ``{}`` for the class name.
        scene_of: From a label and a random scene to a scene of that class.
    """
    for name, (stream, style) in _STREAMS.items():
        per_class = {"train": options.train_per_class, "val": options.val_per_class}.get(name, options.test_per_class)
        labels = np.arange(per_class * len(class_names), dtype=np.int64) % len(class_names)
        images = np.empty((len(labels), 3, world.SIDE, world.SIDE), np.uint8)
        for row, label in enumerate(labels):
            dice = world.Dice(stream, row)
            scene = scene_of(int(label), world.random_scene(dice))
            images[row] = world.render(scene, dice, style).transpose(2, 0, 1)
        write_split(folder, name, images, labels)
    return Description(
        class_names=tuple(class_names),
        template=template,
        source="rendered by bench/datasets/world.py",
        licence="Apache-2.0",
        redistribution=True,
    )
