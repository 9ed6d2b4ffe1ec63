"""STL-10: 13,000 labelled photos of 10 classes, 96x96 pixels, drawn from ImageNet."""

from pathlib import Path

import numpy as np

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import prompts
from bench.datasets.archives.members import texts
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Member, Opened, Rows, Source
from bench.datasets.store import Description
from bench.errors import UserError

ARCHIVE = File(
    "stl10_binary.tar.gz",
    ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",),
    md5="91f7769df0f17e558f3565bffb0c7dfb",
    about=2_640_000_000,
)
_SIDE = 96


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="stl10",
        files=(ARCHIVE,),
        origin="https://cs.stanford.edu/~acoates/stl10/",
        licence="as ImageNet: non-commercial research and education only",
        redistribution=False,
        read=_read,
        counts={"train": 5000, "test": 8000, "tecoa16": 8000},
        classes=10,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    splits, images = dict[str, Rows](), list[Member]()
    files = [f"{split}_{part}.bin" for split in ("train", "test") for part in "Xy"]
    names, *contents = texts(opened, ARCHIVE.name, "class_names.txt", *files)
    for split, pixels, labels in zip(("train", "test"), contents[::2], contents[1::2], strict=True):
        if len(pixels) != len(labels) * 3 * _SIDE**2:
            raise UserError(f"{opened.path(ARCHIVE.name)}: {split}_X.bin does not hold one image for each label")
        # Stored by columns; labels count from 1.
        pictures = np.frombuffer(pixels, np.uint8).reshape(-1, 3, _SIDE, _SIDE).transpose(0, 3, 2, 1)
        keys = [f"{split}/{row}" for row in range(len(pictures))]
        splits[split] = Rows(keys, [number - 1 for number in labels])
        images += [
            Member(key, lambda picture=picture: np.ascontiguousarray(picture))
            for key, picture in zip(keys, pictures, strict=True)
        ]
    splits["tecoa16"] = splits["test"]
    return Contents(
        splits,
        images,
        prompts(names.decode("utf-8").split(), tecoa16="This is a photo of a {}.", r_adapt="a photo of a {}"),
    )
