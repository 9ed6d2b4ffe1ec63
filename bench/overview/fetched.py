"""What a suite asks of its datasets, held against those that have been fetched; nothing is said of the others."""

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from bench.config import Suite
from bench.datasets.halves import part_of
from bench.datasets.store import Manifest, SplitEntry, read_manifest
from bench.errors import UserError, unknown
from bench.paths import Paths


class Fetched:
    """The manifests that are there. All checks yield faults; ``key`` is where the suite asks for it."""

    def __init__(self, suite: Suite, paths: Paths) -> None:
        """Read all manifests."""
        self._manifests = {name: found for name in suite.datasets if (found := _manifest(paths, name)) is not None}

    def has_class(self, dataset: str, name: str, key: str) -> Iterator[str]:
        """The dataset has a class called ``name``."""
        manifest = self._manifests.get(dataset)
        if manifest and name not in manifest.description.class_names:
            yield str(unknown(f"class of '{dataset}'", name, manifest.description.class_names, key))

    def has_splits(self, dataset: str, names: Sequence[str], key: str) -> Iterator[str]:
        """The dataset has these splits."""
        manifest = self._manifests.get(dataset)
        for name in names:
            if manifest and part_of(manifest, name).split not in manifest.splits:
                yield str(unknown(f"split of '{dataset}'", name, manifest.splits, key))

    def has_captions(self, dataset: str, key: str) -> Iterator[str]:
        """The dataset has captions to train on."""
        train = self._train(dataset)
        if dataset in self._manifests and not (
            train and any(name.startswith("train.captions.") for name in train.files)
        ):
            yield f"{key}: dataset '{dataset}' has no captions in a split 'train'"

    def has_shots(self, dataset: str, shots: int, key: str) -> Iterator[str]:
        """Every class of the dataset has so many images to train on."""
        train = self._train(dataset)
        fewest = shots if self._is_coop(dataset) else min(train.per_class, default=0) if train else 0
        if dataset in self._manifests and fewest < shots:
            yield f"{key}: {shots} shots per class are asked, but a class of '{dataset}' has {fewest} training images"

    def _is_coop(self, dataset: str) -> bool:
        """CoOp takes what there is of a class that has fewer images."""
        manifest = self._manifests.get(dataset)
        return bool(manifest and manifest.description.few_shot)

    def _train(self, dataset: str) -> SplitEntry | None:
        manifest = self._manifests.get(dataset)
        return manifest.splits.get("train") if manifest else None


def _manifest(paths: Paths, dataset: str) -> Manifest | None:
    """None where the dataset has not been fetched, or its manifest is damaged, which is another command's to tell."""
    try:
        return read_manifest(paths.data, dataset)
    except (UserError, ValidationError):
        return None
