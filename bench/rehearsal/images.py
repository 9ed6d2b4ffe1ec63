"""A few made-up images in the place of each dataset: smooth colour fields at the size that CLIP takes.

The images of a test split are almost one image, under the name of every class. A model calls them all the same, so that
one of them is right, and is attacked, whatever a random model says.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from bench.config import Options, Suite
from bench.datasets.store import Description, build, write_split
from bench.rehearsal.shrink import PAIRS

CLASSES = 4
_SIDE = 224
_OTHERS = ("dog", "tree", "car", "house")
# Captions of an image, where pairs are looked for; pairs to tune on have one each, as they are published.
_CAPTIONS = 5
_DIFFERENCE = 0.01
_HALVES = ("_base", "_new")


class TinyOptions(Options):
    """How many images; ``seed`` makes the datasets differ."""

    classes: tuple[str, ...]
    splits: tuple[str, ...]
    seed: int


def make_images(suite: Suite, data: Path) -> None:
    """Write every dataset of the suite: one image of each class in each split, with captions; for training a few more.

    The classes are the targets of the suite's backdoors, and a few others.
    """
    targets = dict.fromkeys(spec.target for spec in suite.checkpoints.values() if spec.target)
    classes = tuple(targets) + _OTHERS[: max(2, CLASSES - len(targets))]
    tested = {split for track in suite.tracks.values() for split in track.splits if not split.endswith(_HALVES)}
    splits = ("train", *sorted({"val", "test"} | tested))
    for seed, name in enumerate(suite.datasets):
        build(name, TinyOptions(classes=classes, splits=splits, seed=seed), fetch, data)


def fetch(options: TinyOptions, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    for place, split in enumerate(options.splits):
        count = max(PAIRS, len(options.classes)) if split == "train" else len(options.classes)
        stream = torch.Generator().manual_seed(100 * options.seed + place)
        coarse = torch.rand(count, 3, 7, 7, generator=stream)
        if split != "train":
            coarse = coarse[:1] + _DIFFERENCE * coarse
        images = functional.interpolate(coarse, (_SIDE, _SIDE), mode="bicubic").clamp(0, 1).mul(255).byte().numpy()
        labels = np.arange(count, dtype=np.int64) % len(options.classes)
        each = 1 if split == "train" else _CAPTIONS
        owners = np.arange(count, dtype=np.int64).repeat(each)
        captions = [f"a photo of a {options.classes[labels[row]]}, number {place}" for place, row in enumerate(owners)]
        write_split(folder, split, images, labels, captions, None if split == "train" else owners)
    return Description(
        class_names=options.classes,
        template="a photo of a {}.",
        source="made up for a rehearsal",
        licence="Apache-2.0",
        redistribution=True,
    )
