"""ImageNet-R: 30,000 renditions (art, toys, sketches) of 200 ImageNet classes, told apart among those 200.

Labels count the sorted synset folders; names are OpenAI's.
"""

from pathlib import Path

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import by_synset
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "imagenet-r.tar",
    ("https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",),
    md5="a61312130a589d0ca1a8fca1f2bd3337",
    about=2_190_000_000,
)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="imagenet_r",
        files=(ARCHIVE,),
        origin="https://github.com/hendrycks/imagenet-r",
        licence="list MIT; images belong to their owners",
        redistribution=False,
        read=_read,
        counts={"test": 30000},
        classes=200,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    return by_synset(opened, ARCHIVE.name, below="imagenet-r")
