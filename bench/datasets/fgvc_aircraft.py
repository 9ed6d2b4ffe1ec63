"""FGVC Aircraft: 10,000 photos of 100 aircraft variants, in the official split, which CoOp and the TeCoA list share.

A banner with the photographer's name fills the lowest 20 pixels; the papers leave it in.
"""

from pathlib import Path

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import labels_of, prompts
from bench.datasets.archives.members import members, texts
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "fgvc-aircraft-2013b.tar.gz",
    ("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
    md5="d4acdd33327262359767eeaa97a4f732",
    about=2_750_000_000,
)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="fgvc_aircraft",
        files=(ARCHIVE,),
        origin="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        licence="non-commercial research only",
        redistribution=False,
        read=_read,
        counts={"train": 3334, "val": 3333, "test": 3333, "tecoa16": 3333},
        classes=100,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    lists = {split: f"data/images_variant_{split}.txt" for split in ("train", "val", "test")}
    variants, *contents = texts(opened, ARCHIVE.name, "data/variants.txt", *lists.values())
    names = variants.decode("utf-8").splitlines()
    splits = {
        split: labels_of(content, lists[split], names, ".jpg") for split, content in zip(lists, contents, strict=True)
    }
    splits["tecoa16"] = splits["test"]
    sentences = prompts(names, coop="a photo of a {}, a type of aircraft.", r_adapt="a photo of a {}")
    boeing = [f"Boeing {name}" if name.startswith("7") else name for name in names]
    sentences |= prompts(boeing, tecoa16="A photo of a {}, a type of aircraft.")
    return Contents(splits, members(opened, ARCHIVE.name, below="data/images"), sentences, coop=True)
