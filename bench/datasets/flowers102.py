"""Flowers102: 8,189 photos of 102 flowers. CoOp's own split (2,463 test images), and the official test set (6,149).

In the official split the test set is the large one; its MATLAB files count from 1.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

from scipy.io import loadmat

from bench.datasets.archives import coop
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import prompts, spoken
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Rows, Source
from bench.datasets.store import Description
from bench.errors import UserError

_ORIGIN = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
ARCHIVE = File(
    "102flowers.tgz", (f"{_ORIGIN}/102flowers.tgz",), md5="52808999861908f626f3c1f4e79d11fa", about=345_000_000
)
LABELS = File("imagelabels.mat", (f"{_ORIGIN}/imagelabels.mat",), md5="e0620be6f572b9609742df49c70aed4d")
LISTS = File("setid.mat", (f"{_ORIGIN}/setid.mat",), md5="a5357ecc9cb78c4bef273ce3793fc85c")
SPLIT = coop.split_file(
    "split_zhou_OxfordFlowers.json", 771139, "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794"
)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="flowers102",
        files=(ARCHIVE, LABELS, LISTS, SPLIT),
        origin=f"{_ORIGIN}/",
        licence="research only, no explicit licence",
        redistribution=False,
        read=_read,
        counts={"train": 4093, "val": 1633, "test": 2463, "tecoa16": 6149},
        classes=102,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    splits, names = coop.read_split(opened, SPLIT.name)
    numbers = _numbers(opened, LISTS.name, "tstid")
    labels = _numbers(opened, LABELS.name, "labels")
    images = [f"image_{number:05d}.jpg" for number in numbers]
    splits["tecoa16"] = Rows(images, [labels[number - 1] - 1 for number in numbers])
    texts = prompts(names, coop="a photo of a {}, a type of flower.", r_adapt="a photo of a {}")
    texts |= prompts(map(spoken, names), tecoa16="A photo of a {}, a type of flower.")
    return Contents(splits, members(opened, ARCHIVE.name, below="jpg"), texts, coop=True)


def _numbers(opened: Opened, name: str, variable: str) -> list[int]:
    path = opened.path(name)
    try:
        content: dict[str, Any] = loadmat(BytesIO(path.read_bytes()))
        return [int(number) for number in content[variable].ravel()]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} has no '{variable}' ({error}); delete it and fetch again") from error
