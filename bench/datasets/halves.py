"""CoOp's base-to-new protocol: tuned on the base classes, tested on either half of the classes by itself.

In a suite ``test_base`` and ``test_new`` name the images of the split ``test`` that are of the base and of the new
classes; only the classes of that half are told apart.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from bench.datasets.sampling import even_sample
from bench.datasets.store import Manifest, open_split


class Part(NamedTuple):
    """What a suite means by the name of a split.

    Attributes:
        split: The split on disk.
        classes: The classes whose images count, and between which is decided.
    """

    split: str
    classes: range


class Drawn(NamedTuple):
    """Some images of a split, or of a half of one.

    Attributes:
        rows: Their places in the split on disk.
        images: ``(n, 3, h, w)`` in [0,1].
        labels: ``(n,)``, counted from the first of ``classes``.
        classes: Which of the dataset's classes are told apart.
    """

    rows: list[int]
    images: Tensor
    labels: Tensor
    classes: range


def part_of(manifest: Manifest, name: str) -> Part:
    """The split ``name``, or the half of one; a name that is neither is kept as it is."""
    split, _, half = name.rpartition("_")
    if name in manifest.splits or split not in manifest.splits or half not in ("base", "new"):
        return Part(name, all_classes(manifest))
    return Part(split, base_classes(manifest) if half == "base" else new_classes(manifest))


def all_classes(manifest: Manifest) -> range:
    """Every class of the dataset."""
    return range(len(manifest.description.class_names))


def base_classes(manifest: Manifest) -> range:
    """The first half of the classes, the larger one of an odd number, unless the manifest says how many."""
    return range(manifest.description.base_classes or -(-len(all_classes(manifest)) // 2))


def new_classes(manifest: Manifest) -> range:
    """The classes that are not base classes."""
    return all_classes(manifest)[len(base_classes(manifest)) :]


def draw(data: Path, manifest: Manifest, name: str, size: int | None = None) -> Drawn:
    """Images of what a suite calls a split, taken from its classes in turn.

    Args:
        data: Where the images are.
        manifest: Their dataset.
        name: A split, or the half of one.
        size: How many; all if not given.

    Raises:
        UserError: The split does not exist, or its files are not those of the manifest.
    """
    part = part_of(manifest, name)
    split, first = open_split(data, manifest, part.split), part.classes.start
    (there,) = np.nonzero((split.labels >= first) & (split.labels < part.classes.stop))
    rows = there[even_sample(split.labels[there], size)].tolist()
    return Drawn(rows, split.batch(rows), split.targets(rows) - first, part.classes)
