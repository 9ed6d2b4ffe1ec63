"""CoOp's splits, few-shot samples and base and new classes (Zhou et al., 2022), as its code and Dassl draw them.

Python's ``random`` is seeded with the run's seed; each class, in the order in which the split file first names it,
gives ``shots`` of its training images, or all if it has fewer; then each gives ``min(shots, 4)`` validation images.
Base and new classes are taken after the sampling.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from itertools import combinations

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from bench.datasets.archives.source import File, Opened, Rows
from bench.errors import UserError

SHOTS = (1, 2, 4, 8, 16)
SEEDS = (1, 2, 3)
_SPLITS = "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/{}/splits/{}"
_COMMIT = "ac9077ee4e422f768c9b9109551468605e33ec9a"
_FILE = TypeAdapter(dict[str, list[tuple[str, int, str]]])


def split_file(name: str, size: int = 0, sha256: str = "") -> File:
    """CoOp's split file ``name``, from a copy on GitHub (MIT) that has not changed since 2022."""
    return File(name, (_SPLITS.format(_COMMIT, name),), size, sha256=sha256)


def read_split(opened: Opened, name: str, prefix: str = "") -> tuple[dict[str, Rows], tuple[str, ...]]:
    """The splits in a split file, and the class names by label.

    Args:
        opened: The dataset's archives.
        name: The split file.
        prefix: Put in front of the image names.

    Raises:
        UserError: It is not a split file.
    """
    path = opened.path(name)
    try:
        content = _FILE.validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} is not a split file: {error.errors()[0]['msg']}; delete it and fetch again") from error
    if content.keys() != {"train", "val", "test"}:
        raise UserError(f"{path}: has {sorted(content)} instead of train, val and test")
    names = {label: text for rows in content.values() for _, label, text in rows}
    if sorted(names) != list(range(len(names))):
        raise UserError(f"{path}: labels are not 0 to {len(names) - 1}")
    splits = {
        split: Rows([f"{prefix}{image}" for image, _, _ in rows], [label for _, label, _ in rows])
        for split, rows in content.items()
    }
    return splits, tuple(names[label] for label in range(len(names)))


def overlaps(splits: Mapping[str, Rows]) -> list[str]:
    """One message for every two of train, val and test that share images, and for every one that repeats some."""
    faults = list[str]()
    keys = {name: set(splits[name].keys) for name in ("train", "val", "test") if name in splits}
    for name, images in keys.items():
        if len(images) != len(splits[name].keys):
            faults.append(f"split '{name}' names {len(splits[name].keys) - len(images)} images twice")
    for first, second in combinations(keys, 2):
        if shared := keys[first] & keys[second]:
            faults.append(f"'{first}' and '{second}' share {len(shared)} images, such as {min(shared)}")
    return faults


def few_shot(train: Iterable[int], val: Iterable[int], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Rows of the few-shot training and validation sets, in CoOp's order.

    Args:
        train: Class of every training image, in the order of the split file.
        val: The same for validation images.
        shots: Images per class.
        seed: Seed of the run.
    """
    stream = random.Random(seed)  # the same stream as the global one after random.seed(seed)
    return _sample(train, shots, stream), _sample(val, min(shots, 4), stream)


def _sample(labels: Iterable[int], shots: int, stream: random.Random) -> list[int]:
    by_class = dict[int, list[int]]()
    for row, label in enumerate(labels):
        by_class.setdefault(int(label), []).append(row)
    return [row for rows in by_class.values() for row in (stream.sample(rows, shots) if len(rows) >= shots else rows)]


def digests(train: Sequence[int]) -> dict[str, str]:
    """A short hash of every few-shot training set in use, by ``<shots>-<seed>``."""
    return {f"{k}-{seed}": digest(few_shot(train, (), k, seed)[0]) for k in SHOTS for seed in SEEDS}


def digest(rows: Sequence[int]) -> str:
    """Hash of an index list."""
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()[:16]


def published_digests(dataset: str) -> dict[str, str]:
    """Digests of a dataset's index lists as they were when checked against the published ones; empty for others."""
    text = (resources.files("bench.datasets.archives") / "few_shot.json").read_text("utf-8")
    return json.loads(text).get(dataset, {})


def base_classes(classes: int) -> int:
    """How many of ``classes`` are base classes: the first half, rounded up."""
    return -(-classes // 2)


def half(labels: npt.NDArray[np.int64], base: int, part: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the base or the new classes, and their labels counted from zero.

    Args:
        labels: Class of every image.
        base: How many classes are base classes.
        part: ``base`` or ``new``.
    """
    rows = np.flatnonzero(labels < base if part == "base" else labels >= base)
    return rows, labels[rows] - (0 if part == "base" else base)
