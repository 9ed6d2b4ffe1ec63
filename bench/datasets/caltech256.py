"""Caltech256: 30,607 photos of 256 object classes and clutter, all of them, as the TeCoA list has it."""

import re
from pathlib import Path

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import by_folder, prompts, spoken
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "256_ObjectCategories.tar",
    ("https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",),
    md5="67b4f42ca05d46448c6bb8ecd2220f6d",
    about=1_200_000_000,
)
_BELOW = "256_ObjectCategories"
# Some folders hold other files too.
_IMAGE = re.compile(r"(\d{3})\.([^/]+)/\1_\d{4}\.jpg")


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="caltech256",
        files=(ARCHIVE,),
        origin="https://data.caltech.edu/records/nyy15-4j048",
        licence="CC-BY-4.0",
        redistribution=True,
        read=_read,
        counts={"tecoa16": 30607},
        classes=257,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    rows = by_folder(opened, ARCHIVE.name, below=_BELOW, label_of=_label)
    folders = sorted({key.partition("/")[0] for key in rows.keys})
    names = [spoken(folder[4:].replace("-101", "")) for folder in folders]
    texts = prompts(names, tecoa16="A photo of a {}.", r_adapt="a photo of a {}")
    return Contents({"tecoa16": rows}, members(opened, ARCHIVE.name, below=_BELOW), texts)


def _label(name: str) -> int | None:
    found = _IMAGE.fullmatch(name)
    return int(found[1]) - 1 if found else None
