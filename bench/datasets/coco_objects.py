"""V-Attack's 300 photos of COCO's val2017: an object in each, another one that an attacker wants to be seen, questions.

R-Adapt's tables 5 and 11 follow this protocol. ``caption`` has the request to describe each photo and ``questions`` the
three questions about its object. The words of objects stand before the colon of their descriptions.
"""

import json
from pathlib import Path
from typing import Any

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Rows, Source
from bench.datasets.store import Description
from bench.errors import UserError

_REQUEST = "Describe the image briefly in one sentence."
_ORIGINS = (
    "https://raw.githubusercontent.com/Summu77/V-Attack/main/Data/",
    # The same files at a fixed commit of a project that took them over.
    "https://raw.githubusercontent.com/kuohii/V-Attack_against_GUI_agent/7e4721ff3aff9ebbbb5f62e3cb5244c1268fd83e/Eval/",
)
IMAGES = File(
    "val2017.zip",
    ("http://images.cocodataset.org/zips/val2017.zip",),
    size=815_585_330,
    md5="442b8da7639aecaf257c1dceb8ba8c80",
    sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
)
# The list of each file's entries is below this key.
_KEYS = {"object_descriptions_main": "caption", "target_obj_sim": "replace", "vqa_main": "vqa"}
WORDS = {what: File(f"coco300_{what}.json", tuple(f"{at}coco300_{what}.json" for at in _ORIGINS)) for what in _KEYS}


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="coco_objects",
        files=(IMAGES, *WORDS.values()),
        origin="https://github.com/Summu77/V-Attack",
        licence="words: none stated; images Flickr's, by image",
        redistribution=False,
        read=_read,
        counts={"caption": 300, "questions": 300},
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    shown, wanted, asked = (_entries(opened, what) for what in _KEYS)
    if not shown.keys() == wanted.keys() == asked.keys():
        raise UserError(f"{opened.path('')}: the three lists of words are not about the same images")
    keys = list(shown)
    swaps = [f"{_name(shown[key])} > {_name(wanted[key])}" for key in keys]
    owners = [row for row, key in enumerate(keys) for _ in asked[key]]
    names = [_name(shown[key]) for key in keys]
    caption = Rows(keys, captions=[_REQUEST] * len(keys), answers=names, swaps=swaps)
    questions = Rows(
        keys,
        captions=[text for key in keys for text in asked[key]],
        owners=owners,
        answers=[names[row] for row in owners],
        swaps=swaps,
    )
    splits = {"caption": caption, "questions": questions}
    return Contents(splits, members(opened, IMAGES.name, below="val2017"))


def _entries(opened: Opened, what: str) -> dict[str, list[str]]:
    """The sentences of each image."""
    path = opened.path(WORDS[what].name)
    try:
        content: list[dict[str, Any]] = json.loads(path.read_bytes())
        return {str(entry["image"]): [str(text) for text in entry[_KEYS[what]]] for entry in content}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not one of V-Attack's lists ({error!r}); delete it and fetch again") from error


def _name(sentences: list[str]) -> str:
    """The words before the colon of the first sentence."""
    return sentences[0].partition(":")[0].strip().lower()
