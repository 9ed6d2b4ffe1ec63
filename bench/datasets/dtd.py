"""Describable Textures: 47 textures. CoOp's split, and the TeCoA list: the test part of official partition 1."""

from pathlib import Path

from bench.datasets.archives import coop
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import folders_of, prompts, spoken
from bench.datasets.archives.members import members, texts
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Rows, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "dtd-r1.0.1.tar.gz",
    ("https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",),
    md5="fff73e5086ae6bdbea199a49dfb8a4c1",
    about=625_000_000,
)
SPLIT = coop.split_file(
    "split_zhou_DescribableTextures.json", 563702, "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38"
)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="dtd",
        files=(ARCHIVE, SPLIT),
        origin="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        licence="research only, no explicit licence",
        redistribution=False,
        read=_read,
        counts={"train": 2820, "val": 1128, "test": 1692, "tecoa16": 1880},
        classes=47,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    splits, names = coop.read_split(opened, SPLIT.name)
    label = folders_of(splits)
    official = texts(opened, ARCHIVE.name, "labels/test1.txt")[0].decode("utf-8").split()
    splits["tecoa16"] = Rows(official, [label[image.partition("/")[0]] for image in official])
    sentences = prompts(names, coop="{} texture.", r_adapt="a photo of a {}")
    sentences |= prompts(map(spoken, names), tecoa16="A surface with a {} texture.")
    return Contents(splits, members(opened, ARCHIVE.name, below="images"), sentences, coop=True)
