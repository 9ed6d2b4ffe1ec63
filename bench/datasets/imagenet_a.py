"""ImageNet-A: 7,500 natural photos of 200 ImageNet classes that fool a ResNet-50, told apart among those 200.

Labels count the sorted synset folders; names are OpenAI's.
"""

from pathlib import Path

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import by_synset
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "imagenet-a.tar",
    ("https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",),
    size=687552512,
    md5="c3e55429088dc681f30d81f4726b6595",
)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="imagenet_a",
        files=(ARCHIVE,),
        origin="https://github.com/hendrycks/natural-adv-examples",
        licence="list MIT; images belong to their owners",
        redistribution=False,
        read=_read,
        counts={"test": 7500},
        classes=200,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    return by_synset(opened, ARCHIVE.name, below="imagenet-a")
