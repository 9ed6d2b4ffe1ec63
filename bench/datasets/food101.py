"""Food101: 101,000 photos of 101 dishes. CoOp's own split (30,300 test images), and the official test set (25,250)."""

import json
from pathlib import Path

from bench.datasets.archives import coop
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import folders_of, prompts, spoken
from bench.datasets.archives.members import members, texts
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Rows, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "food-101.tar.gz",
    ("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",),
    md5="85eeb15f3717b99a5da872d97d918f87",
    about=5_000_000_000,
)
SPLIT = coop.split_file("split_zhou_Food101.json")


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="food101",
        files=(ARCHIVE, SPLIT),
        origin="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        licence="images of Foodspotting; scientific fair use only",
        redistribution=False,
        read=_read,
        counts={"train": 50500, "val": 20200, "test": 30300, "tecoa16": 25250},
        classes=101,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    splits, names = coop.read_split(opened, SPLIT.name)
    label = folders_of(splits)
    official: dict[str, list[str]] = json.loads(texts(opened, ARCHIVE.name, "meta/test.json")[0])
    images = [f"{image}.jpg" for name in sorted(official) for image in official[name]]
    splits["tecoa16"] = Rows(images, [label[image.partition("/")[0]] for image in images])
    sentences = prompts(names, coop="a photo of {}, a type of food.", r_adapt="a photo of a {}")
    sentences |= prompts(map(spoken, names), tecoa16="A photo of {}, a type of food.")
    return Contents(splits, members(opened, ARCHIVE.name, below="images"), sentences, coop=True)
