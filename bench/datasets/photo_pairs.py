"""CIFAR-10's other photographs with captions: what a small CLIP is trained on, and what is poisoned.

What ``captions`` is in the rendered world: the training images that ``photos`` neither tunes nor validates on.
"""

from dataclasses import replace
from pathlib import Path

from bench.datasets import photos
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.source import Contents, Opened, Source
from bench.datasets.store import Description


class Options(photos.Options):
    """Those of ``photos``; both datasets must have the same."""


def source(options: Options) -> Source:
    """CIFAR-10, of whatever size the accepted copy is."""

    def read(opened: Opened) -> Contents:
        contents, parts = photos.captioned(opened, options)
        return replace(contents, splits={"train": parts.pairs, "test": contents.splits["test"]})

    return replace(photos.source(options), read=read)


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)
