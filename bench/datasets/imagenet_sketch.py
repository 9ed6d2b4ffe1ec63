"""ImageNet-Sketch: 50,889 black and white drawings of the 1,000 ImageNet classes."""

from pathlib import Path

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import by_synset
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "ImageNet-Sketch.zip",
    (
        "https://huggingface.co/datasets/songweig/imagenet_sketch/resolve/"
        "bee800b13e5902e5dc77861fce441a6986b840ca/data/ImageNet-Sketch.zip",
    ),
    about=7_500_000_000,
)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="imagenet_sketch",
        files=(ARCHIVE,),
        origin="https://github.com/HaohanWang/ImageNet-Sketch",
        licence="list MIT; images belong to their owners",
        redistribution=False,
        read=_read,
        counts={"test": 50889},
        classes=1000,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    return by_synset(opened, ARCHIVE.name, below="sketch")
