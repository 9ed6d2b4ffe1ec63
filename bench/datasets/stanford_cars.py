"""Stanford Cars: photos of 196 models. CoOp's split, whose test images are the official ones.

The origin is gone since 2023 and copies on the hub lose the file names that CoOp's split refers to, so the two image
archives have to be put in place by hand.
"""

from pathlib import Path

from bench.datasets.archives import coop
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import prompts
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description

_MANUAL = (
    "the origin is gone; take {} from a colleague's copy of the original archives, or unpack the folder {} of "
    "https://www.kaggle.com/datasets/jessicali9530/stanford-cars-dataset (login needed)"
)
TRAIN = File(
    "cars_train.tgz",
    md5="065e5b463ae28d29e77c1b4b166cfe61",
    manual=_MANUAL.format("cars_train.tgz", "cars_train"),
    about=980_000_000,
)
TEST = File(
    "cars_test.tgz",
    md5="4ce7ebf6a94d07f1952d94dd34c4d501",
    manual=_MANUAL.format("cars_test.tgz", "cars_test"),
    about=980_000_000,
)
SPLIT = coop.split_file(
    "split_zhou_StanfordCars.json", 1855652, "40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d"
)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="stanford_cars",
        files=(TRAIN, TEST, SPLIT),
        origin="https://ai.stanford.edu/~jkrause/cars/car_dataset.html (gone)",
        licence="non-commercial research, as ImageNet",
        redistribution=False,
        read=_read,
        counts={"train": 6509, "val": 1635, "test": 8041, "tecoa16": 8041},
        classes=196,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    splits, names = coop.read_split(opened, SPLIT.name)
    splits["tecoa16"] = splits["test"]
    texts = prompts(names, coop="a photo of a {}.", r_adapt="a photo of a {}")
    # CoOp puts the year first; the TeCoA list leaves it out.
    texts |= prompts((name[5:].replace("-", " ") for name in names), tecoa16="A photo of a {}.")
    return Contents(splits, members(opened, TRAIN.name, TEST.name), texts, coop=True)
