"""What the options of an analysis name in the suite, checked before anything is opened."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pydantic import BaseModel, Field

from bench.config import Options, Suite
from bench.errors import unknown


class Need(NamedTuple):
    """What has to be made before an analysis can open it: a checkpoint, and a defense on it if one is named.

    Attributes:
        checkpoint: Id of the checkpoint.
        track: Track of the defense; empty where the checkpoint's trigger is all that is opened.
        defense: Its id there.
        dataset: What the defense is meant for; empty where that is the dataset of the analysis.
    """

    checkpoint: str
    track: str = ""
    defense: str = ""
    dataset: str = ""


class Reference(Options, ABC):
    """Options that name something in the suite."""

    @abstractmethod
    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """What is named and does not exist.

        Args:
            suite: The benchmark.
            key: File and key of these options, for messages.
        """
        ...

    def needs(self, suite: Suite) -> Iterable[Need]:
        """What is opened; what is read from ``cells.csv`` is not."""
        del suite
        return ()


class ImageReference(Reference):
    """Some test images.

    Attributes:
        dataset: Which dataset.
        split: Which part of it.
        images: How many, taken from the classes in turn; all if not given.
        seed: Seed of what is drawn for each image.
    """

    dataset: str
    split: str = "test"
    images: int | None = Field(default=None, gt=0)
    seed: int = 1

    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """The dataset."""
        yield from missing("dataset", [self.dataset], suite.datasets, f"{key}.dataset")


class ModelReference(Reference):
    """One defended model; the defense ``none`` is the checkpoint as it is.

    Attributes:
        track: Track of the defense.
        defense: Its id there.
        checkpoint: What it defends.
        dataset: Which of the track's datasets it is meant for; that of the analysis if not given.
        seed: Seed of its training.
    """

    track: str
    defense: str
    checkpoint: str
    dataset: str = ""
    seed: int = 1

    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """Track, defense, checkpoint, dataset and seed."""
        yield from missing("track", [self.track], suite.tracks, f"{key}.track")
        if self.track not in suite.tracks:
            return
        track, at = suite.tracks[self.track], f"of track '{self.track}'"
        yield from missing(f"defense {at}", [self.defense], track.defenses, f"{key}.defense")
        yield from missing(f"checkpoint {at}", [self.checkpoint], track.checkpoints, f"{key}.checkpoint")
        yield from missing(f"dataset {at}", [self.dataset] if self.dataset else [], track.datasets, f"{key}.dataset")
        yield from missing("seed", [str(self.seed)], map(str, suite.protocol.seeds), f"{key}.seed")

    def needs(self, suite: Suite) -> Iterable[Need]:
        """The defense on its checkpoint."""
        del suite
        return (Need(self.checkpoint, self.track, self.defense, self.dataset),)


class AttackReference(Reference):
    """One of the suite's attacks, under its own threat model.

    Attributes:
        attack: Its id.
    """

    attack: str

    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """The attack."""
        yield from missing("attack", [self.attack], suite.attacks, f"{key}.attack")


class CellReference(Reference):
    """Some cells of one track, on one dataset.

    Attributes:
        track: Which track.
        dataset: Which of its datasets.
        split: Which of its splits.
        checkpoints: Which of its checkpoints; all if empty.
        attacks: Which of its attacks with a threat model, beside the conditions without one; none if empty.
    """

    track: str
    dataset: str
    split: str = "test"
    checkpoints: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()

    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """Track, dataset, split, checkpoints, attacks and, where there are some, defenses."""
        yield from missing("track", [self.track], suite.tracks, f"{key}.track")
        if self.track not in suite.tracks:
            return
        track, at = suite.tracks[self.track], f"of track '{self.track}'"
        yield from missing(f"dataset {at}", [self.dataset], track.datasets, f"{key}.dataset")
        yield from missing(f"split {at}", [self.split], track.splits, f"{key}.split")
        yield from missing(f"checkpoint {at}", self.checkpoints, track.checkpoints, f"{key}.checkpoints")
        yield from missing(f"attack {at}", self.attacks, track.attacks, f"{key}.attacks")
        yield from missing(f"defense {at}", self.named_defenses(), track.defenses, f"{key}.defenses")

    def named_defenses(self) -> Iterable[str]:
        """Ids of the defenses that these options name."""
        return ()

    def checkpoints_in(self, suite: Suite) -> tuple[str, ...]:
        """The checkpoints, in the order in which they are named."""
        return self.checkpoints or suite.tracks[self.track].checkpoints


def missing(kind: str, names: Iterable[str], known: Iterable[str], key: str) -> Iterator[str]:
    """A sentence for each of ``names`` that is not ``known``, with the nearest one that is."""
    there = list(known)
    yield from (str(unknown(kind, name, there, key)) for name in names if name not in there)


def faults_of(value: object, suite: Suite, key: str) -> Iterator[str]:
    """All faults of the references in ``value``: options, and whatever they hold."""
    for place, reference in references_in(value, key):
        yield from reference.faults(suite, place)


def references_in(value: object, key: str = "") -> Iterator[tuple[str, Reference]]:
    """The references in ``value``, options and whatever they hold, each with its key below ``key``."""
    if isinstance(value, Reference):
        yield key, value
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from references_in(inner, f"{key}.{name}")
    elif isinstance(value, tuple):
        for place, inner in enumerate(value):
            yield from references_in(inner, f"{key}.{place}")


def name_faults(suite: Suite, name: str, key: str) -> Iterator[str]:
    """Whether the files of an analysis would overwrite others.

    Args:
        suite: The benchmark.
        name: Id of the analysis.
        key: File and key of the analysis, for messages.
    """
    if name == "cells" or name in suite.tables:
        yield f"{key}: this name would overwrite {name}.csv; rename the analysis"
