"""CIFAR-100: 60,000 photos of 100 classes, 32x32 pixels, enlarged to the model's resolution.

The origin serves less than 0.1 MB/s since 2026, and has no mirror that is known.
"""

from pathlib import Path

from bench.datasets.archives.cifar import read_cifar
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "cifar-100-python.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    about=169_000_000,
)
_BATCHES = {"train": ("train",), "test": ("test",)}


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="cifar100",
        files=(ARCHIVE,),
        origin="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated; to be cited",
        redistribution=False,
        read=_read,
        counts={"train": 50000, "test": 10000, "tecoa16": 10000},
        classes=100,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    return read_cifar(opened, ARCHIVE.name, _BATCHES, "fine_labels", "meta:fine_label_names")
