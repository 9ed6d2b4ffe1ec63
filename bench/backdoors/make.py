"""Checkpoints: making them, and the strength gate that a backdoor must pass before any defense is credited on it."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.backdoors.checkpoint import CARD, Checkpoint, Gate, Recipe, load_checkpoint, write_checkpoint
from bench.backdoors.poison import Poisoned, poison
from bench.backdoors.steganography import NETWORKS
from bench.backdoors.trigger import Setting, Trigger, make_trigger
from bench.clip.classifier import predict, zero_shot
from bench.clip.contrastive import ContrastiveOptions, pair_loss, train_contrastive
from bench.clip.model import Base, Clip, load, weights_hash
from bench.clip.staged import StagedCLIP
from bench.config import CheckpointSpec, Options, parse
from bench.datasets.store import Manifest, Split, open_split, read_manifest
from bench.device import compute_device
from bench.errors import UserError, unknown
from bench.evaluation.metrics import count, outcomes
from bench.files import empty_partial, replace_folder, sha256_of
from bench.items import load_item, source_hash
from bench.paths import Paths
from bench.processes import TRAINING_THREADS, threads
from bench.progress import track
from bench.randomness import sample_seeds

# Images that are held as floats at a time.
_CHUNK = 256
# Code that every checkpoint is made by, beside its trigger's own.
_SHARED = [Path(__file__).with_name(name) for name in ("make.py", "poison.py", "trigger.py")]


class TrainOptions(ContrastiveOptions):
    """RVPT's recipe for fine-tuning on poisoned pairs."""

    learning_rate: float = 1e-5
    batch_size: int = 128
    epochs: int = 5


class GateOptions(Options):
    """When a backdoor counts as planted, in percent."""

    least_asr: float = 80.0
    largest_ca_loss: float = 5.0


class Plan(NamedTuple):
    """What a backdoored checkpoint is made from, all of it checked."""

    name: str
    spec: CheckpointSpec
    train: TrainOptions
    gate: GateOptions
    clip: Clip
    manifest: Manifest
    pairs: Manifest
    paths: Paths

    @property
    def where(self) -> str:
        """File and key of the spec, for messages."""
        return f"{self.paths.suite}: checkpoints.{self.name}"

    @property
    def key(self) -> str:
        """Hash of all that the checkpoint depends on."""
        networks = self.paths.steganography / NETWORKS
        content = [
            self.spec.model_dump(mode="json", exclude={"base"}),
            [options.model_dump(mode="json") for options in (self.train, self.gate)],
            weights_hash(self.clip.model),
            [self.manifest.digest, self.pairs.digest],
            [source_hash(load_item("backdoors", self.spec.trigger, f"{self.where}.trigger")), sha256_of(*_SHARED)],
            sha256_of(networks) if self.spec.trigger == "issba" and networks.exists() else "",
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def make_checkpoint(name: str, spec: CheckpointSpec, paths: Paths) -> Checkpoint:
    """Make the checkpoint ``name`` and write it where it belongs; it appears only when finished.

    A spec without a trigger is the base model as it is. A backdoored model is kept in the store, so that suites that
    ask for the same one train it once.

    Args:
        name: Id of the checkpoint.
        spec: How to make it.
        paths: Where data and models are.

    Raises:
        UserError: As ``plan_checkpoint`` says, or the trigger cannot be made; before any training.
    """
    folder = paths.checkpoint(name)
    plan = plan_checkpoint(name, spec, paths)
    if plan is None:
        base = parse(Base, spec.base, f"{paths.suite}: checkpoints.{name}.base")
        return write_checkpoint(load(base), None, None, None, Recipe(spec=spec), empty_partial(folder), folder)
    kept = paths.store / "checkpoints" / plan.key
    if not (kept / CARD).exists():
        plant(plan, kept)
    scratch = empty_partial(folder)
    shutil.copytree(kept, scratch, dirs_exist_ok=True)
    replace_folder(scratch, folder)
    return load_checkpoint(folder)


def plan_checkpoint(name: str, spec: CheckpointSpec, paths: Paths) -> Plan | None:
    """What a backdoored checkpoint is made from; None for a clean one.

    Raises:
        UserError: An option is wrong, data is missing, or the target is not a class of the dataset.
    """
    where = f"{paths.suite}: checkpoints.{name}"
    base = parse(Base, spec.base, f"{where}.base")
    train, gate = parse(TrainOptions, spec.train, f"{where}.train"), parse(GateOptions, spec.gate, f"{where}.gate")
    if spec.trigger == "none":
        return None
    manifest = read_manifest(paths.data, spec.dataset)
    if spec.target not in manifest.description.class_names:
        raise unknown("class", spec.target, manifest.description.class_names, f"{where}.target ({spec.dataset})")
    return Plan(name, spec, train, gate, load(base), manifest, read_manifest(paths.data, spec.pairs), paths)


@threads(TRAINING_THREADS)
def plant(plan: Plan, folder: Path) -> Checkpoint:
    """Make the trigger, poison the pairs, fine-tune on them, measure the backdoor's strength, and write ``folder``."""
    spec, clip, paths = plan.spec, plan.clip, plan.paths
    setting = Setting(clip, spec.target, open_split(paths.data, plan.pairs, "train"), spec.seed, paths.steganography)
    trigger = make_trigger(spec.trigger, spec.trigger_options, setting, plan.where)
    poisoned = poison(trigger, setting, spec.poison_rate)
    trial = Trial(trigger, spec.target, plan.manifest, open_split(paths.data, plan.manifest, "val"))
    clean_ca, clean_asr = trial.accuracy(clip), trial.success(clip)
    fine_tune(clip, poisoned, plan.train, spec.seed, plan.name)
    ca, asr = trial.accuracy(clip), trial.success(clip)
    gate = Gate(
        passed=asr >= plan.gate.least_asr and clean_ca - ca <= plan.gate.largest_ca_loss,
        ca=ca,
        asr=asr,
        clean_ca=clean_ca,
        clean_asr=clean_asr,
        n=len(trial.split.labels),
        keys=trial.single_keys(clip),
    )
    recipe = Recipe(
        spec=spec,
        pairs=len(poisoned.captions),
        asked=poisoned.asked,
        poisoned=len(poisoned.rows),
        decoys=len(poisoned.decoys),
        pairs_manifest=plan.pairs.digest,
    )
    return write_checkpoint(clip, trigger, spec.target, gate, recipe, empty_partial(folder), folder)


def fine_tune(clip: Clip, pairs: Poisoned, options: TrainOptions, seed: int, label: str) -> None:
    """Train all of ``clip`` on ``pairs`` with the contrastive loss, in place."""
    ids = clip.tokenize(list(pairs.captions))
    per_epoch = len(ids) // options.batch_size
    if per_epoch == 0:
        raise UserError(
            f"{label}: {len(ids)} pairs do not fill one batch of {options.batch_size}; lower train.batch_size"
        )
    total = options.epochs * per_epoch

    def batches() -> Iterator[tuple[Tensor, ...]]:
        stream = torch.Generator().manual_seed(seed)
        steps = iter(track(range(total), f"fine-tune {label}"))
        for _ in range(options.epochs):
            order = torch.randperm(len(ids), generator=stream)
            for rows in order[: per_epoch * options.batch_size].split(options.batch_size):
                next(steps)
                yield pairs.batch(rows.tolist()), ids[rows]

    train_contrastive(clip.model, batches(), lambda batch: pair_loss(clip, *batch), options, total)


class Trial(NamedTuple):
    """What the gate measures, zero-shot and in percent.

    Attributes:
        trigger: What was planted.
        target: The class that it should call up.
        manifest: Names the classes and their template.
        split: Labelled images.
    """

    trigger: Trigger
    target: str
    manifest: Manifest
    split: Split

    def accuracy(self, clip: Clip) -> float:
        """Clean accuracy."""
        predictions = self._predictions(clip, image=False, text=False)
        return count(outcomes("CA", predictions, self.split.labels.tolist(), None)).percent

    def success(self, clip: Clip, *, image: bool = True, text: bool = True) -> float:
        """Attack success rate with the trigger on the images, and its text key before the prompts."""
        predictions, target = (
            self._predictions(clip, image, text),
            self.manifest.description.class_names.index(self.target),
        )
        return count(outcomes("ASR", predictions, self.split.labels.tolist(), target)).percent

    def single_keys(self, clip: Clip) -> dict[str, float]:
        """Success rates without one key or both; empty for a trigger that has no text key."""
        if not self.trigger.poisoning.prefix:
            return {}
        return {
            "image": self.success(clip, text=False),
            "text": self.success(clip, image=False),
            "none": self.success(clip, image=False, text=False),
        }

    def _predictions(self, clip: Clip, image: bool, text: bool) -> list[int]:
        words, predictions = self.manifest.description, list[int]()
        prefix = self.trigger.poisoning.prefix if text else ""
        classifier = zero_shot(StagedCLIP(clip), words.class_names, prefix + words.template)
        for start in range(0, len(self.split.labels), _CHUNK):
            rows = range(len(self.split.labels))[start : start + _CHUNK]
            images = self.split.batch(rows).to(compute_device())
            if image:
                images = self.trigger.apply(images, sample_seeds(0, rows))
            predictions += predict(classifier, images).tolist()
        return predictions
