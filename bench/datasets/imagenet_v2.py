"""ImageNet-V2 (matched frequency): 10,000 new photos of the 1,000 ImageNet classes.

Its folders are numbers: sorted as text they would give wrong labels.
"""

from pathlib import Path

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import by_folder, imagenet_names, prompts
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "imagenetv2-matched-frequency.tar.gz",
    ("https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz",),
    about=1_200_000_000,
)
_BELOW = "imagenetv2-matched-frequency-format-val"


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="imagenet_v2",
        files=(ARCHIVE,),
        origin="https://github.com/modestyachts/ImageNetV2",
        licence="list MIT; images belong to their owners",
        redistribution=False,
        read=_read,
        counts={"test": 10000},
        classes=1000,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    rows = by_folder(opened, ARCHIVE.name, below=_BELOW, label_of=lambda name: int(name.partition("/")[0]))
    texts = prompts(imagenet_names().values(), coop="a photo of a {}.", r_adapt="a photo of a {}")
    return Contents({"test": rows}, members(opened, ARCHIVE.name, below=_BELOW), texts)
