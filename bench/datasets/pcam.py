"""PatchCamelyon: is there a tumour in the centre of a 96x96 patch of lymph node tissue? 32,768 test patches.

The origin is a drive that often refuses downloads, so the patches come from CLIP-benchmark's lossless copy on the hub.
"""

from pathlib import Path

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import prompts
from bench.datasets.archives.shards import hub_shards, images, labelled
from bench.datasets.archives.source import ArchiveOptions, Contents, Opened, Source
from bench.datasets.store import Description

_COPY = "clip-benchmark/wds_vtab-pcam"
SHARDS = hub_shards(_COPY, "main", "test", 7, about=100_000_000)
_NAMES = ("healthy lymph node tissue", "lymph node tumor tissue")


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="pcam",
        files=SHARDS,
        origin="https://github.com/basveeling/pcam",
        licence="CC0-1.0",
        redistribution=True,
        read=_read,
        counts={"test": 32768, "tecoa16": 32768},
        classes=2,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    shards = [shard.name for shard in SHARDS]
    rows = labelled(opened, shards)
    texts = prompts(_NAMES, tecoa16="This is a photo of {}.", r_adapt="a photo of a {}")
    return Contents({"test": rows, "tecoa16": rows}, images(opened, shards), texts)
