"""Oxford-IIIT Pets: photos of 37 breeds of cats and dogs. CoOp's split, whose test images are the official ones.

Some files are PNG or GIF images under the name of a JPEG. The breeds are in the order of the labels, which is not
OpenAI's (cats first).
"""

from pathlib import Path

from bench.datasets.archives import coop
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import prompts
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "images.tar.gz",
    ("https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",),
    md5="5c4f3ee8e5d25df40f4fd59a7f44e54c",
    about=792_000_000,
)
SPLIT = coop.split_file(
    "split_zhou_OxfordPets.json", 724217, "d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e"
)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="oxford_pets",
        files=(ARCHIVE, SPLIT),
        origin="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        licence="CC-BY-SA-4.0; images belong to their owners",
        redistribution=True,
        read=_read,
        counts={"train": 2944, "val": 736, "test": 3669, "tecoa16": 3669},
        classes=37,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    splits, names = coop.read_split(opened, SPLIT.name)
    texts = prompts(
        names,
        coop="a photo of a {}, a type of pet.",
        rvpt="a photo of {}, a type of pet.",
        tecoa16="A photo of a {}, a type of pet.",
        r_adapt="a photo of a {}",
    )
    splits["tecoa16"] = splits["test"]
    return Contents(splits, members(opened, ARCHIVE.name, below="images"), texts, coop=True)
