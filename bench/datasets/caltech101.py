"""Caltech101 with CoOp's split: 8,242 photos of 100 object classes, without background and the second face class.

The published container is a zip with a tar inside. About four percent of the images are grayscale.
"""

from pathlib import Path

from bench.datasets.archives import coop
from bench.datasets.archives.fetch import fetch_source, prompts
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "caltech-101.zip",
    ("https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",),
    md5="3138e1922a9193bfa496528edbbc45d0",
)
SPLIT = coop.split_file(
    "split_zhou_Caltech101.json", 809184, "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5"
)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="caltech101",
        files=(ARCHIVE, SPLIT),
        read=_read,
        origin="https://data.caltech.edu/records/mzrjq-6wc02",
        licence="CC-BY-4.0",
        redistribution=True,
        counts={"train": 4128, "val": 1649, "test": 2465},
        classes=100,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write CoOp's three splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    splits, names = coop.read_split(opened, SPLIT.name)
    spoken = [name.replace("_", " ") for name in names]
    images = members(opened, ARCHIVE.name, below="101_ObjectCategories")
    return Contents(splits, images, prompts(spoken, coop="a photo of a {}.", r_adapt="a photo of a {}"), coop=True)
