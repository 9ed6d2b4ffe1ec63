"""How much work the parts of a suite are, in passes through a model; what ``estimate`` multiplies speeds with."""

from functools import cache
from typing import Any, NamedTuple

from pydantic import ValidationError

from bench.clip.defended import PLACEHOLDER, Task
from bench.config import Options, Suite
from bench.datasets.archives.source import Source
from bench.datasets.halves import base_classes, part_of
from bench.datasets.store import Manifest, open_split, read_manifest
from bench.defenses.artefact import task_of
from bench.errors import UserError
from bench.items import item_options, load_item
from bench.paths import Paths

_CLASSES, _IMAGES, _PAIRS = 10, 1_000, 10_000
_AUTOATTACK_STEPS, _AUTOATTACK_TARGETS, _SQUARE_QUERIES = 100, 9, 5_000
# The evaluator classifies every image before the attack and after it.
_EVALUATOR = 2


class Work(NamedTuple):
    """Passes per image: forward only, and forward with backward."""

    forwards: float
    gradients: float


def work_of(
    attack: str, module: Any, options: Options, classes: int, survivors: float, surrogates: int = 0
) -> Work | None:
    """What an attack and the evaluator around it do with one image; None where that does not show.

    Args:
        attack: Id of the attack's file.
        module: The attack's file.
        options: Its options.
        classes: How many the model tells apart.
        survivors: Share of the images that AutoAttack's later parts still have to attack.
        surrogates: How many models a transfer attack is made on; taken to be as slow as the attacked one.
    """
    if attack == "autoattack":
        # APGD-CE on all; targeted APGD and FAB, once per target, and Square on what is left.
        later = 2 * min(_AUTOATTACK_TARGETS, classes - 1) * _AUTOATTACK_STEPS
        return Work(_EVALUATOR + survivors * _SQUARE_QUERIES, _AUTOATTACK_STEPS + survivors * later)
    if hasattr(module, "passes"):
        forwards, gradients = module.passes(options, classes, surrogates)
        return Work(_EVALUATOR + forwards, gradients)
    if hasattr(options, "steps"):
        return Work(_EVALUATOR, options.steps * getattr(options, "restarts", 1))  # pyright: ignore[reportAttributeAccessIssue]
    return Work(_EVALUATOR, 0) if module.METRIC in ("CA", "ASR") else None


def seen_images(options: Options, images: int) -> int | None:
    """How many images tuning sees, repeats included; None where the options do not say."""
    if hasattr(options, "epochs"):
        return images * options.epochs  # pyright: ignore[reportAttributeAccessIssue]
    if hasattr(options, "steps"):
        return options.steps * getattr(options, "batch_size", 1)  # pyright: ignore[reportAttributeAccessIssue]
    return None


class Sizes:
    """Sizes of a suite's datasets.

    From their manifests; where they are not fetched yet, what their files declare of them; and where these declare
    nothing, usual sizes.
    """

    def __init__(self, suite: Suite, paths: Paths, notes: list[str]) -> None:
        """Look nothing up yet; ``notes`` is added to."""
        self._suite, self._paths, self._notes = suite, paths, notes
        # There are thousands of cells, and few datasets.
        self.stated, self._manifest = cache(self._stated), cache(self._read)

    def task(self, dataset: str) -> Task:
        """The classes."""
        manifest = self._manifest(dataset)
        return (
            task_of(manifest) if manifest else Task((PLACEHOLDER,) * (self.stated(dataset).classes or _CLASSES), "{}")
        )

    def images(self, dataset: str, split: str, most: int | None = None) -> int:
        """Images of a split or of half of one, or of the sample that is taken of them."""
        manifest = self._manifest(dataset)
        part = part_of(manifest, split) if manifest else None
        whole = split.removesuffix("_base").removesuffix("_new")
        # Of a half, about half of the images.
        count = self.stated(dataset).counts.get(whole, _IMAGES) // (1 if whole == split else 2)
        if manifest and part and part.split in manifest.splits:
            count = sum(manifest.splits[part.split].per_class[part.classes.start : part.classes.stop])
        return count if most is None else min(count, most)

    def questions(self, dataset: str, split: str, most: int | None = None) -> int:
        """Questions of a split, of which an image may have several, or of the sample that is taken of them."""
        manifest = self._manifest(dataset)
        if manifest is None:
            count = self.stated(dataset).questions.get(split, self.images(dataset, split))
        elif split in manifest.splits and f"{split}.owners.npy" in manifest.splits[split].files:
            count = len(open_split(self._paths.data, manifest, split).owners)
        else:
            count = self.images(dataset, split)
        return count if most is None else min(count, most)

    def labelled(self, dataset: str, shots: int, classes: str = "all") -> int:
        """Images that a defense tunes on, of all classes or of the ``base`` classes."""
        manifest = self._manifest(dataset)
        if manifest:
            return shots * len(base_classes(manifest) if classes == "base" else manifest.description.class_names)
        return shots * len(self.task(dataset).class_names) // (2 if classes == "base" else 1)

    def pairs(self, dataset: str, most: int | None = None) -> int:
        """Image-caption pairs."""
        manifest = self._manifest(dataset)
        stated = self.stated(dataset).counts.get("train", _PAIRS)
        count = manifest.splits["train"].count if manifest else self._suite.datasets[dataset].get("pairs", stated)
        return count if most is None else min(count, most)

    def _stated(self, dataset: str) -> Source:
        """What the dataset's file declares; an empty declaration where it is made here."""
        module = load_item("datasets", dataset, f"{self._paths.suite}: datasets")
        if not hasattr(module, "source"):
            return Source("", (), "", "", redistribution=True)
        return module.source(item_options(module, self._suite.datasets[dataset], f"{self._paths.suite}: datasets"))

    def _read(self, dataset: str) -> Manifest | None:
        try:
            return read_manifest(self._paths.data, dataset)
        except (UserError, ValidationError):
            stated = self.stated(dataset).counts
            usual = f"{_CLASSES} classes, {_IMAGES:,} images or {_PAIRS:,} pairs"
            assumed = "the sizes that its publisher states" if stated else usual
            note = f"'{dataset}' is not fetched; {assumed} are assumed (`bench fetch {dataset}` first tells more)"
            self._notes.append(note)
            return None
