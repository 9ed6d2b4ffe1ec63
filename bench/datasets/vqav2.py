"""VQAv2: 214,354 questions about the 40,504 photos of COCO's val2014, with ten answers each.

The questions are the split's ``captions``, ``owners`` says which image each is about, and ``answers`` holds ten for
each question. The image archive is the one of ``coco_captions``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.members import members, texts
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Rows, Source
from bench.datasets.coco_captions import IMAGES
from bench.datasets.store import Description
from bench.errors import UserError

_ORIGIN = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
QUESTIONS = File("v2_Questions_Val_mscoco.zip", (f"{_ORIGIN}/v2_Questions_Val_mscoco.zip",))
ANSWERS = File("v2_Annotations_Val_mscoco.zip", (f"{_ORIGIN}/v2_Annotations_Val_mscoco.zip",))
_ANSWERS = 10


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="coco",
        files=(IMAGES, QUESTIONS, ANSWERS),
        origin="https://visualqa.org",
        licence="annotations CC-BY-4.0; images Flickr's, by image",
        redistribution=False,
        read=_read,
        counts={"val": 40504},
        questions={"val": 214354},
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    asked = list(_entries(opened, QUESTIONS.name, "v2_OpenEnded_mscoco_val2014_questions.json", "questions"))
    answered = {
        int(entry["question_id"]): [str(answer["answer"]) for answer in entry["answers"]]
        for entry in _entries(opened, ANSWERS.name, "v2_mscoco_val2014_annotations.json", "annotations")
    }
    row_of = {identity: row for row, identity in enumerate(sorted({int(entry["image_id"]) for entry in asked}))}
    wrong = [entry["question_id"] for entry in asked if len(answered.get(int(entry["question_id"]), ())) != _ANSWERS]
    if wrong:
        raise UserError(f"{opened.path(ANSWERS.name)}: question {wrong[0]} does not have {_ANSWERS} answers")
    rows = Rows(
        [f"COCO_val2014_{identity:012d}.jpg" for identity in row_of],
        captions=[str(entry["question"]) for entry in asked],
        owners=[row_of[int(entry["image_id"])] for entry in asked],
        answers=[answer for entry in asked for answer in answered[int(entry["question_id"])]],
    )
    return Contents({"val": rows}, members(opened, IMAGES.name, below="val2014"))


def _entries(opened: Opened, archive: str, name: str, key: str) -> Iterator[dict[str, Any]]:
    try:
        yield from json.loads(texts(opened, archive, name)[0])[key]
    except (ValueError, KeyError) as error:
        raise UserError(f"{opened.path(archive)}: {name} has no {key} ({error!r})") from error
