"""Country211: photos that tell in which of 211 countries they were taken; 100 test images of each.

The origin answers 404, so the images come from CLIP-benchmark's copy on the hub, at one commit. Its class names are
OpenAI's, in the order of the country codes.
"""

from pathlib import Path

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import prompts
from bench.datasets.archives.shards import hub_shards, images, labelled
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

_COPY, _COMMIT = "clip-benchmark/wds_country211", "1699f138f0558342a1cbf99f7cf36b4361bb5ebc"
NAMES = File("classnames.txt", (f"https://huggingface.co/datasets/{_COPY}/resolve/{_COMMIT}/classnames.txt",))
SHARDS = hub_shards(_COPY, _COMMIT, "test", 4, about=960_000_000)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="country211",
        files=(NAMES, *SHARDS),
        origin=f"https://huggingface.co/datasets/{_COPY}",
        licence="Creative Commons, by image (YFCC100M)",
        redistribution=True,
        read=_read,
        counts={"test": 21100, "tecoa16": 21100},
        classes=211,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    shards = [shard.name for shard in SHARDS]
    rows = labelled(opened, shards)
    names = opened.path(NAMES.name).read_text("utf-8").splitlines()
    texts = prompts(names, tecoa16="A photo I took in {}.", r_adapt="a photo of a {}")
    return Contents({"test": rows, "tecoa16": rows}, images(opened, shards), texts)
