"""Caltech101: photos of 100 object classes. CoOp's split, and the TeCoA list of all 8,677 images.

CoOp drops the background and the second face class. The TeCoA list drops the background and calls both face classes
"person"; here they are one class, since two classes of one text would leave the second never to be predicted. The
published container is a zip with a tar inside. About four percent of the images are grayscale.
"""

from pathlib import Path

from bench.datasets.archives import coop
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import by_folder, folders_of, prompts
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Source
from bench.datasets.store import Description, Prompts

ARCHIVE = File(
    "caltech-101.zip",
    ("https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",),
    md5="3138e1922a9193bfa496528edbbc45d0",
    about=137_000_000,
)
SPLIT = coop.split_file(
    "split_zhou_Caltech101.json", 809184, "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5"
)
_BELOW = "101_ObjectCategories"


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="caltech101",
        files=(ARCHIVE, SPLIT),
        origin="https://data.caltech.edu/records/mzrjq-6wc02",
        licence="CC-BY-4.0",
        redistribution=True,
        read=_read,
        counts={"train": 4128, "val": 1649, "test": 2465, "tecoa16": 8677},
        classes=100,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    splits, names = coop.read_split(opened, SPLIT.name)
    label = folders_of(splits)
    label |= {"Faces_easy": label["Faces"]} if "Faces" in label else {}
    everything = by_folder(opened, ARCHIVE.name, below=_BELOW, label_of=lambda name: label.get(name.rpartition("/")[0]))
    people = tuple("person" if name == "face" else name.replace("_", " ") for name in names)
    texts = prompts(names, coop="a photo of a {}.", r_adapt="a photo of a {}")
    texts["tecoa16"] = Prompts(class_names=people, template="A photo of a {}.")
    return Contents({**splits, "tecoa16": everything}, members(opened, ARCHIVE.name, below=_BELOW), texts, coop=True)
