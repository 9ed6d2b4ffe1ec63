"""ImageNet-1K: 50,000 validation photos of 1,000 classes to test on, and some training photos to tune on.

It cannot be had without an account. Few-shot samples of the official code follow the order in which the file system
lists its folders, so they cannot be repeated elsewhere. Here each class offers ``train_per_class`` images, drawn with
seed 1 from the sorted names, and CoOp's sampling picks from those. ``val`` comes from other training images, so that
nothing is chosen on test images. The TeCoA code drops one class by an accident of its list; here there are 1,000.
"""

import random
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field
from scipy.io import loadmat

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import imagenet_names, prompts
from bench.datasets.archives.members import members, texts
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Member, Opened, Rows, Source
from bench.datasets.store import Description

_MANUAL = "log in at https://image-net.org/download-images, accept the terms and download {}"
VAL = File(
    "ILSVRC2012_img_val.tar",
    md5="29b22e2961454d5413ddabcf34fc5622",
    manual=_MANUAL.format("the validation images of ILSVRC2012 (6.3 GB)"),
    about=6_300_000_000,
)
DEVKIT = File(
    "ILSVRC2012_devkit_t12.tar.gz",
    md5="fa75699e90414af021442c21a62c3abf",
    manual=_MANUAL.format("the development kit of tasks 1 and 2 (2.5 MB)"),
    about=2_500_000,
)
TRAIN = File(
    "ILSVRC2012_img_train.tar",
    md5="1d675b47d978889d74fa0da5fadfb00e",
    manual=_MANUAL.format("the training images of tasks 1 and 2 (138 GB)"),
    unpacked=600 << 30,
    about=138_000_000_000,
)


class Options(ArchiveOptions):
    """How many training images; without any, their large archive is not needed.

    Attributes:
        train_per_class: Training images of each class to tune on.
        val_per_class: Further training images of each class to choose settings on.
    """

    train_per_class: int = Field(default=0, ge=0)
    val_per_class: int = Field(default=0, ge=0)


def source(options: Options) -> Source:
    """The dataset as published."""
    tuning = bool(options.train_per_class or options.val_per_class)
    return Source(
        folder="imagenet",
        files=(VAL, DEVKIT, *([TRAIN] if tuning else [])),
        origin="https://image-net.org/challenges/LSVRC/2012/",
        licence="non-commercial research and education only",
        redistribution=False,
        read=lambda opened: _read(opened, options),
        counts={"test": 50000, "tecoa16": 50000},
        classes=1000,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened, options: Options) -> Contents:
    names = imagenet_names()
    label = {synset: row for row, synset in enumerate(names)}
    test = Rows(*_validation(opened, label))
    splits = {"test": test, "tecoa16": test}
    images = _flat(opened, VAL.name)
    if TRAIN.name in opened.files:
        every = _sorted(_flat(opened, TRAIN.name), label)
        drawn = _draw(every, options.train_per_class, options.val_per_class)
        splits |= {name: rows for name, rows in zip(("train", "val"), drawn, strict=True) if rows.keys}
        images = chain(images, _flat(opened, TRAIN.name))
    sentences = prompts(
        names.values(), coop="a photo of a {}.", tecoa16="This is a photo of a {}.", r_adapt="a photo of a {}"
    )
    return Contents(splits, images, sentences, coop="train" in splits)


def _flat(opened: Opened, archive: str) -> Iterator[Member]:
    """All files of an archive (or of the folders it was unpacked to) under their own names, which are unique."""
    return (Member(member.name.rpartition("/")[2], member.read) for member in members(opened, archive))


def _sorted(images: Iterable[Member], label: dict[str, int]) -> Rows:
    """All training images by name, which starts with the synset."""
    names = sorted(image.name for image in images if image.name.partition("_")[0] in label)
    return Rows(names, [label[name.partition("_")[0]] for name in names])


def _validation(opened: Opened, label: dict[str, int]) -> tuple[list[str], list[int]]:
    """Names of the validation images and their classes, from the development kit."""
    truth, meta = texts(opened, DEVKIT.name, "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat")
    content: dict[str, Any] = loadmat(BytesIO(meta), squeeze_me=True)
    synset_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in content["synsets"]}
    labels = [label[synset_of[int(line)]] for line in truth.split()]
    return [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(labels) + 1)], labels


def _draw(every: Rows, *sizes: int) -> list[Rows]:
    """So many images of each class for each of the sizes, none of them twice."""
    by_class = dict[int, list[str]]()
    for key, label in zip(every.keys, every.labels, strict=True):
        by_class.setdefault(label, []).append(key)
    stream = random.Random(1)
    drawn = [(list[str](), list[int]()) for _ in sizes]
    for label, keys in sorted(by_class.items()):
        picked = stream.sample(keys, min(sum(sizes), len(keys)))
        for (names, labels), size in zip(drawn, sizes, strict=True):
            some, picked = picked[:size], picked[size:]
            names += some
            labels += [label] * len(some)
    return [Rows(names, labels) for names, labels in drawn]
