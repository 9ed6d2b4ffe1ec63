"""WebDataset shards: tar files in which the files of one sample stand together under one name.

The copies of CLIP-benchmark on the hub (``clip-benchmark/wds_<name>``) are laid out as ``<split>/<n>.tar`` with
``nshards.txt`` beside them; samples hold an image (``.webp``, ``.jpg`` or ``.png``) and ``.cls`` (a class index) or
``.txt`` (captions, one per line). Their names are not those of the original files.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bench.datasets.archives.members import members
from bench.datasets.archives.source import File, Member, Opened, Rows

IMAGES = ("jpg", "jpeg", "png", "webp")
_HUB = "https://huggingface.co/datasets"


class Sample(NamedTuple):
    """One sample: the shard's name and its own, its image and its text."""

    key: str
    image: bytes | None
    text: str


def hub_shards(repository: str, revision: str, split: str, count: int, about: int) -> tuple[File, ...]:
    """The shards of one split of a CLIP-benchmark copy, each of ``about`` bytes; on disk ``<split>-<n>.tar``."""
    address = f"{_HUB}/{repository}/resolve/{revision}/{split}"
    return tuple(File(f"{split}-{number}.tar", (f"{address}/{number}.tar",), about=about) for number in range(count))


def samples(opened: Opened, shards: Sequence[str], text: str) -> Iterator[Sample]:
    """All samples, with the text of extension ``text``; one at a time in memory."""
    for shard in shards:
        key, image, words = "", None, ""
        for member in members(opened, shard):
            stem, _, extension = member.name.rpartition(".")
            if stem.split(".")[0] != key and key:
                yield Sample(f"{shard}/{key}", image, words)
                image, words = None, ""
            key = stem.split(".")[0]
            if extension in IMAGES:
                image = bytes(member.read())
            elif extension == text:
                words = bytes(member.read()).decode("utf-8").strip()
        if key:
            yield Sample(f"{shard}/{key}", image, words)


def labelled(opened: Opened, shards: Sequence[str]) -> Rows:
    """The rows of a classification split: names and classes, without looking at the images."""
    keys, labels = list[str](), list[int]()
    for shard in shards:
        for member in members(opened, shard):
            if member.name.endswith(".cls"):
                keys.append(f"{shard}/{member.name.removesuffix('.cls')}")
                labels.append(int(bytes(member.read())))
    return Rows(keys, labels)


def captioned(opened: Opened, shards: Sequence[str]) -> Rows:
    """The rows of a retrieval split: each image with its captions."""
    keys, captions, owners = list[str](), list[str](), list[int]()
    for shard in shards:
        for member in members(opened, shard):
            if member.name.endswith(".txt"):
                lines = bytes(member.read()).decode("utf-8").splitlines()
                captions += lines
                owners += [len(keys)] * len(lines)
                keys.append(f"{shard}/{member.name.removesuffix('.txt')}")
    return Rows(keys, captions=captions, owners=owners)


def images(opened: Opened, shards: Iterable[str]) -> Iterator[Member]:
    """All images, under the names that the rows use."""
    for shard in shards:
        for member in members(opened, shard):
            stem, _, extension = member.name.rpartition(".")
            if extension in IMAGES:
                yield Member(f"{shard}/{stem}", member.read)
