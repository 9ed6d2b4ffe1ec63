"""EuroSAT: 27,000 RGB satellite images of 10 kinds of land, 64x64 pixels. CoOp's split, and the TeCoA list of them all.

The origin's certificate is broken, so the archive comes from TorchGeo's copy. Labels follow the sorted folders, which
is not OpenAI's order.
"""

from pathlib import Path

from bench.datasets.archives import coop
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import by_folder, folders_of, prompts
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

ARCHIVE = File(
    "EuroSAT.zip",
    (
        "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
        "https://madm.dfki.de/files/sentinel/EuroSAT.zip",
    ),
    md5="c8fa014336c82ac7804f0398fcb19387",
    about=90_000_000,
)
SPLIT = coop.split_file(
    "split_zhou_EuroSAT.json", 3006492, "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2"
)
_TECOA = (
    "annual crop land", "a forest", "brushland or shrubland", "a highway or a road", "industrial buildings",
    "pasture land", "permanent crop land", "residential buildings", "a river", "a sea or a lake",
)  # fmt: skip


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="eurosat",
        files=(ARCHIVE, SPLIT),
        origin="https://github.com/phelber/EuroSAT",
        licence="MIT, and the terms of Copernicus Sentinel data",
        redistribution=True,
        read=_read,
        counts={"train": 13500, "val": 5400, "test": 8100, "tecoa16": 27000},
        classes=10,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    splits, names = coop.read_split(opened, SPLIT.name)
    label = folders_of(splits)
    splits["tecoa16"] = by_folder(
        opened, ARCHIVE.name, below="2750", label_of=lambda name: label.get(name.partition("/")[0])
    )
    texts = prompts(names, coop="a centered satellite photo of {}.", r_adapt="a photo of a {}")
    texts |= prompts(_TECOA[: len(names)], tecoa16="A centered satellite photo of {}.")
    return Contents(splits, members(opened, ARCHIVE.name, below="2750"), texts, coop=True)
