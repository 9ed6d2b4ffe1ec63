"""CIFAR-10's photographs at their own 32x32 pixels, with captions and with a validation split.

What ``shapes`` and ``captions`` are in the rendered world, for real photographs: a small CLIP is trained on them, they
are poisoned, and they are classified. A caption is a sentence with the name of the class. Validation images are the
first training images of each class. A smaller copy of the archive will do, where ``pins`` accepts it; the manifest says
how many photographs there were.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from bench.datasets import cifar10
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import prompts
from bench.datasets.archives.source import ArchiveOptions, Contents, Opened, Rows, Source
from bench.datasets.store import Description
from bench.datasets.world import SENTENCES, Dice, article

_STREAM = 601


class Options(ArchiveOptions):
    """As for all real datasets, at CIFAR's own resolution.

    Attributes:
        val_per_class: Training images of each class that are kept for validation.
    """

    size: int = Field(default=32, gt=0)
    val_per_class: int = Field(default=100, gt=0)


def source(options: Options) -> Source:
    """CIFAR-10, of whatever size the accepted copy is."""

    def read(opened: Opened) -> Contents:
        return _captioned(cifar10.read(opened), options.val_per_class)

    return replace(cifar10.source(cifar10.Options()), read=read, counts={})


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def caption(name: str, *seed: int) -> str:
    """A sentence about a photograph of the class ``name``; equal seeds give equal sentences."""
    return SENTENCES[Dice(*seed).below(len(SENTENCES))].format(f"{article(name)} {name}")


def _captioned(contents: Contents, val_per_class: int) -> Contents:
    """The splits ``train`` and ``val`` with captions, and ``test``."""
    names = next(iter(contents.prompts.values())).class_names
    train = contents.splits["train"]
    labels = np.asarray(train.labels)
    first = [np.flatnonzero(labels == label)[:val_per_class] for label in range(len(names))]
    held = np.zeros(len(labels), bool)
    held[np.concatenate(first)] = True
    captions = [caption(names[label], _STREAM, row) for row, label in enumerate(train.labels)]
    splits = {
        "train": _part(train, captions, np.flatnonzero(~held).tolist()),
        "val": _part(train, captions, np.flatnonzero(held).tolist()),
        "test": contents.splits["test"],
    }
    return replace(contents, splits=splits, prompts=prompts(names, photos="a photo of a {}."))


def _part(rows: Rows, captions: Sequence[str], chosen: Sequence[int]) -> Rows:
    return Rows(
        [rows.keys[row] for row in chosen], [rows.labels[row] for row in chosen], [captions[row] for row in chosen]
    )
