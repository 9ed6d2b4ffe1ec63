"""UCF101: the middle frame of 13,320 videos of 101 actions, in CoOp's split.

The frames exist only as CoOp's own archive on a drive that often refuses downloads. Frames taken anew from the videos
differ from it, since which frame it took is not documented; the option ``pins`` accepts them.
"""

from pathlib import Path

from bench.datasets.archives import coop
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import prompts
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "UCF-101-midframes.zip",
    manual="download https://drive.google.com/file/d/10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O/view in a browser "
    "(when it says 'too many users', try again a day later)",
)
SPLIT = coop.split_file(
    "split_zhou_UCF101.json", 1557485, "d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8"
)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="ucf101",
        files=(ARCHIVE, SPLIT),
        origin="https://www.crcv.ucf.edu/data/UCF101.php",
        licence="research only, no explicit licence",
        redistribution=False,
        read=_read,
        counts={"train": 7639, "val": 1898, "test": 3783},
        classes=101,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    splits, names = coop.read_split(opened, SPLIT.name)
    texts = prompts(names, coop="a photo of a person doing {}.")
    return Contents(splits, members(opened, ARCHIVE.name, below="UCF-101-midframes"), texts, coop=True)
