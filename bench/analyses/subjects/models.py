"""Opening what analyses look into: defended models and test images."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.subjects.perturbations import Change
from bench.analyses.subjects.references import ImageReference, ModelReference
from bench.backdoors.checkpoint import Checkpoint, load_checkpoint
from bench.clip.classifier import Classifier
from bench.clip.defended import DefendedCLIP, Task
from bench.clip.staged import StagedCLIP, Trace
from bench.config import parse
from bench.datasets.sampling import even_sample
from bench.datasets.store import Manifest, Split, open_split, read_manifest
from bench.defenses.artefact import ArtefactCard, Part, artefact_name, load_artefact, parts_of, task_of
from bench.errors import UserError
from bench.progress import track
from bench.randomness import sample_seeds

Features = Literal["embedding", "class_token"]
_BATCH = 256


class Sample(NamedTuple):
    """Test images.

    Attributes:
        manifest: Their dataset.
        split: The images, on disk.
        rows: Their places in the split.
        labels: Their classes ``(n,)``.
        seed: Seed of what is drawn for each image.
    """

    manifest: Manifest
    split: Split
    rows: list[int]
    labels: Tensor
    seed: int

    def batches(self, change: Change | None = None) -> Iterator[Tensor]:
        """Images in [0,1], some at a time; each changed with a random stream of its own."""
        for start in range(0, len(self.rows), _BATCH):
            rows = self.rows[start : start + _BATCH]
            images = self.split.batch(rows)
            yield images if change is None else change(images, sample_seeds(self.seed, rows))

    def only(self, row: int, key: str) -> "Sample":
        """The one image at place ``row`` of the split, whether or not it is among these.

        Args:
            row: Place of the image.
            key: File and key that name it, for messages.

        Raises:
            UserError: The split is shorter.
        """
        count = len(self.split.images)
        if row >= count:
            raise UserError(f"{key}: {row} is beyond the {count} images of '{self.manifest.dataset}'")
        return self._replace(rows=[row], labels=self.split.targets([row]))


class Loaded(NamedTuple):
    """One defended model.

    Attributes:
        name: How the analysis calls it.
        defended: The model.
        checkpoint: What it was made from.
        template: Class prompt that takes the place of a dataset's; empty if none does.
    """

    name: str
    defended: DefendedCLIP
    checkpoint: Checkpoint
    template: str

    @property
    def undefended(self) -> DefendedCLIP:
        """The checkpoint without the defense."""
        return DefendedCLIP(StagedCLIP(self.checkpoint.clip))

    def opened(self, task: Task) -> "Opened":
        """The model as a classifier for ``task``."""
        return Opened(self.name, self.defended, self.defended.classifier(task), self.checkpoint)


class Opened(NamedTuple):
    """One defended model as a classifier, ready for use.

    Attributes:
        name: How the analysis calls it.
        defended: The model.
        classifier: The model as a classifier of the sample's dataset.
        checkpoint: What it was made from.
    """

    name: str
    defended: DefendedCLIP
    classifier: Classifier
    checkpoint: Checkpoint

    @torch.no_grad()
    def features(self, sample: Sample, kind: Features = "embedding", change: Change | None = None) -> Tensor:
        """Features ``(n, d)``, float64 on the processor: the embedding, or the class token after the last LayerNorm."""
        return torch.cat([self._features(images, kind).cpu() for images in sample.batches(change)]).double()

    @torch.no_grad()
    def logits(self, sample: Sample, change: Change | None = None) -> Tensor:
        """Logits ``(n, classes)``, float64, on the processor."""
        return torch.cat([self.classifier(images).cpu() for images in sample.batches(change)]).double()

    def target(self, sample: Sample) -> int | None:
        """Index of the backdoor's class in the sample's dataset; None without a backdoor or without such a class."""
        names = sample.manifest.description.class_names
        return names.index(self.checkpoint.card.target) if self.checkpoint.card.target in names else None

    def _features(self, images: Tensor, kind: Features) -> Tensor:
        if kind == "embedding":
            return self.defended.image(images)
        trace = Trace()
        self.defended.image(images, trace)
        return self.defended.staged.visual.ln_post(trace.class_tokens[-1])


def open_sample(source: Source, reference: ImageReference) -> Sample:
    """The images that ``reference`` names.

    Raises:
        UserError: The dataset has not been fetched, or has no such split.
    """
    manifest = read_manifest(source.paths.data, reference.dataset)
    split = open_split(source.paths.data, manifest, reference.split)
    rows = even_sample(split.labels, reference.images).tolist()
    return Sample(manifest, split, rows, split.targets(rows), reference.seed)


def open_models(source: Source, models: Mapping[str, ModelReference], sample: Sample) -> Iterator[Opened]:
    """The models that an analysis names as classifiers of the sample's dataset, opened one after the other.

    Raises:
        UserError: As ``load_models``.
    """
    for model in load_models(source, models, sample.manifest.dataset):
        yield model.opened(task_of(sample.manifest, model.template))


def load_models(source: Source, models: Mapping[str, ModelReference], dataset: str) -> Iterator[Loaded]:
    """The models that an analysis names, loaded one after the other.

    A backdoor that failed its strength gate is told in the name, for no defense may be credited on it.

    Args:
        source: Where the models are.
        models: By the name that the analysis shows.
        dataset: What they are meant for where they name none.

    Raises:
        UserError: A checkpoint or a defense has not been made, or its training diverged.
    """
    for name, reference in track(models.items(), source.name):
        folder, parts = artefact_of(source, reference, dataset)
        loaded = load_checkpoint(source.paths.checkpoint(reference.checkpoint))
        card, defended = load_artefact(folder, parts, loaded)
        if defended is None:
            raise UserError(f"{source.where}: model '{name}' diverged in training: {card.reason}")
        gate = loaded.card.gate
        failed = " (attack failed)" if gate is not None and not gate.passed else ""
        yield Loaded(name + failed, defended, loaded, card.template)


def read_card(source: Source, reference: ModelReference, dataset: str) -> ArtefactCard:
    """The card of a defense artefact, without its model.

    Raises:
        UserError: The defense has not been tuned.
    """
    path = artefact_of(source, reference, dataset)[0] / "artefact.json"
    if not path.exists():
        raise UserError(f"{path} is missing: tune the defense first, with `dvc repro` or `bench defend`")
    return parse(ArtefactCard, json.loads(path.read_text("utf-8")), str(path))


def artefact_of(source: Source, reference: ModelReference, dataset: str) -> tuple[Path, list[Part]]:
    """Folder and parts of a defense artefact that is meant for ``dataset`` where the reference says nothing else."""
    parts = defense_parts(source, reference.track, reference.defense)
    folder = source.paths.defended(reference.track, reference.defense, reference.checkpoint)
    tuned_on = source.suite.tracks[reference.track].tuned_on(reference.defense, reference.dataset or dataset)
    return folder / artefact_name(parts, tuned_on, reference.seed), parts


def defense_parts(source: Source, track_name: str, defense: str) -> list[Part]:
    """The parts of a defense with the suite's options for them, defaults filled in."""
    where = f"{source.paths.suite}: tracks.{track_name}.defenses.{defense}"
    return parts_of(source.suite.tracks[track_name], defense, where)
