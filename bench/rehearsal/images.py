"""A few made-up images in the place of each dataset: smooth colour fields at the size that CLIP takes, or the suite's.

The images of a test split are almost one image, under the name of every class. A model calls them all the same, so that
one of them is right, and is attacked, whatever a random model says.

What large vision-language models are asked about has questions with answers in the place of captions, and, where an
attack turns one object into another, the names of both.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from bench.config import Options, Suite
from bench.datasets.archives.lines import write_lines
from bench.datasets.store import Description, build, write_split
from bench.items import load_item
from bench.lvlm.room import VALUES, is_lvlm, is_lvlm_track
from bench.planned import Absent
from bench.rehearsal.shrink import PAIRS

Asked = Literal["", "questions", "objects"]

CLASSES = 4
_SIDE = 224
_OTHERS = ("dog", "tree", "car", "house")
# Captions of an image, where pairs are looked for; pairs to tune on have one each, as they are published.
_CAPTIONS = 5
_DIFFERENCE = 0.01
_HALVES = ("_base", "_new")
# All words of these are in the vocabulary of shrunken models.
_QUESTIONS, _ANSWERS = ("what is in the image?", "is this a photo?", "describe the image."), ("circle", "star", "heart")
# As many people answer each question of VQAv2; an object has one name.
_PEOPLE = {"questions": 10, "objects": 1}


class TinyOptions(Options):
    """How many images, of which size, and with what; ``seed`` makes the datasets differ."""

    classes: tuple[str, ...]
    splits: tuple[str, ...]
    seed: int
    size: int = _SIDE
    asked: Asked = ""


def make_images(suite: Suite, data: Path) -> None:
    """Write every dataset of the suite: one image of each class in each split, with captions; for training a few more.

    The classes are the targets of the suite's backdoors, and a few others.
    """
    # What a large model shall say is no class.
    planted = [spec for spec in suite.checkpoints.values() if spec.target and not is_lvlm(spec)]
    targets, asked = dict.fromkeys(spec.target for spec in planted), _asked(suite)
    classes = tuple(targets) + _OTHERS[: max(2, CLASSES - len(targets))]
    tested = {split for track in suite.tracks.values() for split in track.splits if not split.endswith(_HALVES)}
    splits = ("train", *sorted({"val", "test"} | tested))
    for seed, (name, own) in enumerate(suite.datasets.items()):
        options = TinyOptions(
            classes=classes, splits=splits, seed=seed, size=own.get("size", _SIDE), asked=asked.get(name, "")
        )
        build(name, options, fetch, data)


def _asked(suite: Suite) -> dict[str, Asked]:
    """What large vision-language models are asked about; objects, where an attack turns one into another."""
    absent, found = Absent(suite), dict[str, Asked]()
    for spec in suite.checkpoints.values():
        if is_lvlm(spec):
            found[spec.dataset] = found[spec.pairs] = "questions"
    for name, track in suite.tracks.items():
        if is_lvlm_track(suite, name):
            there = [suite.method_of(attack) for attack in track.attacks if not absent.attack(attack)]
            swapped = any(getattr(load_item("attacks", one, name), "NEEDS", "") == VALUES for one in there)
            for dataset in track.datasets:
                found[dataset] = "objects" if swapped else "questions"
    return found


def fetch(options: TinyOptions, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    for place, split in enumerate(options.splits):
        count = max(PAIRS, len(options.classes)) if split == "train" else len(options.classes)
        stream = torch.Generator().manual_seed(100 * options.seed + place)
        coarse = torch.rand(count, 3, 7, 7, generator=stream)
        if split != "train":
            coarse = coarse[:1] + _DIFFERENCE * coarse
        images = functional.interpolate(coarse, (options.size,) * 2, mode="bicubic").clamp(0, 1).mul(255).byte().numpy()
        labels = np.arange(count, dtype=np.int64) % len(options.classes)
        each = 1 if split == "train" else _CAPTIONS
        owners = np.arange(count, dtype=np.int64).repeat(each)
        captions = [f"a photo of a {options.classes[labels[row]]}, number {place}" for place, row in enumerate(owners)]
        if options.asked:
            captions = [_QUESTIONS[place % len(_QUESTIONS)] for place in range(len(owners))]
            _write_answers(folder, split, owners.tolist(), options.asked)
        kinds, several = None if options.asked else labels, None if split == "train" else owners
        write_split(folder, split, images, kinds, captions, several)
    return Description(
        class_names=() if options.asked else options.classes,
        template="a photo of a {}.",
        source="made up for a rehearsal",
        licence="Apache-2.0",
        redistribution=True,
    )


def _write_answers(folder: Path, split: str, owners: list[int], asked: Asked) -> None:
    """Write what is right about each image, and of objects what an attacker wants to be seen instead."""
    shown = [_ANSWERS[row % len(_ANSWERS)] for row in range(1 + max(owners))]
    write_lines(folder / f"{split}.answers.txt", (shown[row] for row in owners for _ in range(_PEOPLE[asked])))
    if asked == "objects":
        wanted = [_ANSWERS[(row + 1) % len(_ANSWERS)] for row in range(len(shown))]
        write_lines(
            folder / f"{split}.swaps.txt", (f"{one} > {other}" for one, other in zip(shown, wanted, strict=True))
        )
