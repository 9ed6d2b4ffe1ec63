"""SUN397: 108,754 photos of 397 scenes. CoOp's split, and the TeCoA list of them all.

All addresses of the archive are dead, and copies on the hub lose the file names that CoOp's split refers to.
"""

from pathlib import Path

from bench.datasets.archives import coop
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import by_folder, folders_of, prompts, spoken
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "SUN397.tar.gz",
    md5="8ca2778205c41d23104230ba66911c7a",
    manual="all public addresses are dead; take SUN397.tar.gz (37 GB) from a colleague's copy",
    unpacked=200 << 30,
    about=37_000_000_000,
)
SPLIT = coop.split_file("split_zhou_SUN397.json")


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="sun397",
        files=(ARCHIVE, SPLIT),
        origin="https://vision.princeton.edu/projects/2010/SUN/ (gone)",
        licence="research only",
        redistribution=False,
        read=_read,
        counts={"train": 15880, "val": 3970, "test": 19850, "tecoa16": 108754},
        classes=397,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    splits, names = coop.read_split(opened, SPLIT.name)
    label = folders_of(splits)
    splits["tecoa16"] = by_folder(
        opened, ARCHIVE.name, below="SUN397", label_of=lambda name: label.get(name.rpartition("/")[0])
    )
    folders = sorted(label, key=label.__getitem__)
    texts = prompts(names, coop="a photo of a {}.", r_adapt="a photo of a {}")
    # Without the letter that scenes are sorted under.
    texts |= prompts((spoken(folder.partition("/")[2]) for folder in folders), tecoa16="This is a photo of a {}.")
    return Contents(splits, members(opened, ARCHIVE.name, below="SUN397"), texts, coop=True)
