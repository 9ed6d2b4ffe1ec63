"""COCO captions: the 5,000 photos of Karpathy's test split with at least five captions each, for retrieval."""

import json
from pathlib import Path
from typing import Any

from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.members import members
from bench.datasets.archives.source import ArchiveOptions, Contents, File, Opened, Rows, Source
from bench.datasets.store import Description
from bench.errors import UserError

IMAGES = File(
    "val2014.zip",
    ("http://images.cocodataset.org/zips/val2014.zip",),
    md5="a3d79f5ed8d289b7a7554ce06a5782b3",
    about=6_600_000_000,
)
CAPTIONS = File(
    "coco_test_karpathy.json",
    ("https://github.com/mehdidc/retrieval_annotations/releases/download/1.0.0/coco_test_karpathy.json",),
)


class Options(ArchiveOptions):
    """As for all real datasets."""


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    return Source(
        folder="coco",
        files=(IMAGES, CAPTIONS),
        origin="https://cocodataset.org",
        licence="annotations CC-BY-4.0; images Flickr's, by image",
        redistribution=False,
        read=_read,
        counts={"test": 5000},
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def _read(opened: Opened) -> Contents:
    path = opened.path(CAPTIONS.name)
    try:
        content: dict[str, list[dict[str, Any]]] = json.loads(path.read_bytes())
        names = {int(image["id"]): str(image["file_name"]).rpartition("/")[2] for image in content["images"]}
        captions = [(int(entry["image_id"]), str(entry["caption"])) for entry in content["annotations"]]
        row_of = {identity: row for row, identity in enumerate(names)}
        owners = [row_of[identity] for identity, _ in captions]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not an annotation file of COCO ({error!r}); delete it and fetch again") from error
    rows = Rows(list(names.values()), captions=[caption for _, caption in captions], owners=owners)
    return Contents({"test": rows}, members(opened, IMAGES.name, below="val2014"))
