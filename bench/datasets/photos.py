"""CIFAR-10's photographs at their own 32x32 pixels, with captions and with a validation split.

What ``shapes`` is in the rendered world, for real photographs: defenses are tuned on them and they are classified. Of
the training images of each class the first ones are for validation, the next ones are ``train`` here, and all others
are in ``photo_pairs``, so that no model was trained on what a defense is tuned on. A caption is a sentence with the
name of the class. A smaller copy of the archive will do, where ``pins`` accepts it; the manifest says how many
photographs there were.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

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
        train_per_class: Training images of each class that defenses may be tuned on.
    """

    size: int = Field(default=32, gt=0)
    val_per_class: int = Field(default=100, gt=0)
    train_per_class: int = Field(default=200, gt=0)


class Parts(NamedTuple):
    """CIFAR-10's training images with captions, cut into what no two uses share."""

    val: Rows
    train: Rows
    pairs: Rows


def source(options: Options) -> Source:
    """CIFAR-10, of whatever size the accepted copy is."""

    def read(opened: Opened) -> Contents:
        contents, parts = captioned(opened, options)
        return replace(contents, splits={"train": parts.train, "val": parts.val, "test": contents.splits["test"]})

    return replace(cifar10.source(cifar10.Options()), read=read, counts={})


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def caption(name: str, *seed: int) -> str:
    """A sentence about a photograph of the class ``name``; equal seeds give equal sentences."""
    return SENTENCES[Dice(*seed).below(len(SENTENCES))].format(f"{article(name)} {name}")


def captioned(opened: Opened, options: Options) -> tuple[Contents, Parts]:
    """CIFAR-10, and its training images cut into parts."""
    contents = cifar10.read(opened)
    names = next(iter(contents.prompts.values())).class_names
    train = contents.splits["train"]
    labels, captions = (
        np.asarray(train.labels),
        [caption(names[label], _STREAM, row) for row, label in enumerate(train.labels)],
    )
    turn = np.empty(len(labels), np.int64)
    for label in range(len(names)):
        turn[labels == label] = np.arange((labels == label).sum())
    val, tuning = turn < options.val_per_class, turn < options.val_per_class + options.train_per_class
    parts = Parts(*(_part(train, captions, np.flatnonzero(part).tolist()) for part in (val, tuning & ~val, ~tuning)))
    return replace(contents, prompts=prompts(names, photos="a photo of a {}.")), parts


def _part(rows: Rows, captions: Sequence[str], chosen: Sequence[int]) -> Rows:
    return Rows(
        [rows.keys[row] for row in chosen], [rows.labels[row] for row in chosen], [captions[row] for row in chosen]
    )
