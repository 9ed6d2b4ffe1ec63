"""VQAv2: 214,354 questions about the 40,504 photos of COCO's val2014, and 3,000 to train on, with ten answers each.

The questions are a split's ``captions``, ``owners`` says which image each is about where images have several, and
``answers`` holds ten for each question. Backdoors are planted in images, one for each question, so that ``train`` has
3,000 of the published questions about as many photos of train2014; so many are what the code behind CleanSight's
numbers trains on. It draws them by a shuffle of its own; here they are drawn with a fixed seed from the questions in
the order of their ids. The archive of val2014 is the one of ``coco_captions``.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.members import members, texts
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Rows, Source
from bench.datasets.coco_captions import IMAGES
from bench.datasets.store import Description
from bench.datasets.world import Dice
from bench.errors import UserError

_ORIGIN = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
TRAIN_IMAGES = File(
    "train2014.zip",
    ("http://images.cocodataset.org/zips/train2014.zip",),
    md5="0da8cfa0e090c266b78f30e2d2874f1a",
    about=13_500_000_000,
)
# Answers repeat each other, and shrink more than files that are let through otherwise.
_UNPACKED = 1_000_000_000
# Questions and answers of each part; the files in the archives have other names for the parts.
_PARTS = {"train": "Train", "val": "Val"}
QUESTIONS, ANSWERS = (
    {
        part: File(f"v2_{what}_{name}_mscoco.zip", (f"{_ORIGIN}/v2_{what}_{name}_mscoco.zip",), unpacked=_UNPACKED)
        for part, name in _PARTS.items()
    }
    for what in ("Questions", "Annotations")
)
_ANSWERS = 10
_TRAIN, _SEED = 3_000, 42


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="coco",
        files=(IMAGES, TRAIN_IMAGES, *QUESTIONS.values(), *ANSWERS.values()),
        origin="https://visualqa.org",
        licence="annotations CC-BY-4.0; images Flickr's, by image",
        redistribution=False,
        read=_read,
        counts={"train": _TRAIN, "val": 40504},
        questions={"val": 214354},
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def drawn(asked: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions to train on, no two of them about one image, in the order of their ids."""
    entries = sorted(asked, key=lambda entry: int(entry["question_id"]))
    chosen = dict[int, dict[str, Any]]()
    for place in Dice(_SEED).order(len(entries)):
        chosen.setdefault(int(entries[place]["image_id"]), entries[place])
        if len(chosen) == _TRAIN:
            break
    return sorted(chosen.values(), key=lambda entry: int(entry["question_id"]))


def _read(opened: Opened) -> Contents:
    splits = {
        "train": _rows(opened, "train", drawn(_asked(opened, "train")), several=False),
        "val": _rows(opened, "val", list(_asked(opened, "val")), several=True),
    }
    images = (members(opened, TRAIN_IMAGES.name, below="train2014"), members(opened, IMAGES.name, below="val2014"))
    return Contents(splits, chain(*images))


def _rows(opened: Opened, part: str, asked: list[dict[str, Any]], *, several: bool) -> Rows:
    """Questions with their answers; ``several`` of them may be about one image."""
    name, wanted = f"v2_mscoco_{part}2014_annotations.json", {int(entry["question_id"]) for entry in asked}
    answered = {
        int(entry["question_id"]): [str(answer["answer"]) for answer in entry["answers"]]
        for entry in _entries(opened, ANSWERS[part].name, name, "annotations")
        if int(entry["question_id"]) in wanted
    }
    wrong = [entry["question_id"] for entry in asked if len(answered.get(int(entry["question_id"]), ())) != _ANSWERS]
    if wrong:
        raise UserError(f"{opened.path(ANSWERS[part].name)}: question {wrong[0]} does not have {_ANSWERS} answers")
    shown = [int(entry["image_id"]) for entry in asked]
    row_of = {identity: row for row, identity in enumerate(sorted(set(shown)) if several else shown)}
    return Rows(
        [f"COCO_{part}2014_{identity:012d}.jpg" for identity in row_of],
        captions=[str(entry["question"]) for entry in asked],
        owners=[row_of[identity] for identity in shown] if several else (),
        answers=[answer for entry in asked for answer in answered[int(entry["question_id"])]],
    )


def _asked(opened: Opened, part: str) -> Iterator[dict[str, Any]]:
    name = f"v2_OpenEnded_mscoco_{part}2014_questions.json"
    return _entries(opened, QUESTIONS[part].name, name, "questions")


def _entries(opened: Opened, archive: str, name: str, key: str) -> Iterator[dict[str, Any]]:
    try:
        yield from json.loads(texts(opened, archive, name)[0])[key]
    except (ValueError, KeyError) as error:
        raise UserError(f"{opened.path(archive)}: {name} has no {key} ({error!r})") from error
