"""Checkpoints: making them, and the strength gate that a backdoor must pass before any defense is credited on it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from bench.backdoors.checkpoint import Checkpoint, Gate, Recipe, write_checkpoint
from bench.backdoors.poison import Poisoned, poison
from bench.backdoors.trigger import Trigger, draw_trigger
from bench.clip.classifier import predict, zero_shot
from bench.clip.contrastive import ContrastiveOptions, contrastive_loss, train_contrastive
from bench.clip.model import Base, Clip, load, normalise
from bench.clip.staged import StagedCLIP
from bench.config import CheckpointSpec, Options, parse
from bench.datasets.store import Manifest, Split, open_split, read_manifest
from bench.errors import UserError, unknown
from bench.evaluation.metrics import count, outcomes
from bench.progress import track
from bench.randomness import sample_seeds


class TrainOptions(ContrastiveOptions):
    """RVPT's recipe for fine-tuning on poisoned pairs."""

    learning_rate: float = 1e-5
    batch_size: int = 128
    epochs: int = 5


class GateOptions(Options):
    """When a backdoor counts as planted, in percent."""

    least_asr: float = 80.0
    largest_ca_loss: float = 5.0


def make_checkpoint(name: str, spec: CheckpointSpec, data: Path, folder: Path, where: str) -> Checkpoint:
    """Make the checkpoint ``name`` and write it to ``folder``.

    A spec without a trigger is the base model as it is.

    Args:
        name: Id of the checkpoint.
        spec: How to make it.
        data: Folder of the datasets.
        folder: Where to write it; appears only when finished.
        where: File of the spec, for messages.

    Raises:
        UserError: The target is not a class of the dataset, or an option is wrong; before any training.
    """
    key = f"{where}: checkpoints.{name}"
    base = parse(Base, spec.base, f"{key}.base")
    options = parse(TrainOptions, spec.train, f"{key}.train")
    gate_options = parse(GateOptions, spec.gate, f"{key}.gate")
    scratch = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    if spec.trigger == "none":
        return write_checkpoint(load(base), None, None, None, Recipe(spec=spec), scratch, folder)
    manifest = read_manifest(data, spec.dataset)
    if spec.target not in manifest.description.class_names:
        raise unknown("class", spec.target, manifest.description.class_names, f"{key}.target ({spec.dataset})")
    clip = load(base)
    trigger = draw_trigger(spec.trigger, spec.trigger_options, clip.image_size, spec.seed, key)
    pairs = open_split(data, read_manifest(data, spec.pairs), "train")
    poisoned = poison(pairs, trigger, spec.target, spec.poison_rate, spec.seed)
    validation = open_split(data, manifest, "val")
    before = measure(clip, manifest, validation, trigger, spec.target)
    fine_tune(clip, poisoned, options, spec.seed, name)
    after = measure(clip, manifest, validation, trigger, spec.target)
    passed = after[1] >= gate_options.least_asr and before[0] - after[0] <= gate_options.largest_ca_loss
    gate = Gate(
        passed=passed, ca=after[0], asr=after[1], clean_ca=before[0], clean_asr=before[1], n=len(validation.labels)
    )
    recipe = Recipe(
        spec=spec,
        pairs=len(poisoned.captions),
        poisoned=len(poisoned.rows),
        pairs_manifest=read_manifest(data, spec.pairs).digest,
    )
    return write_checkpoint(clip, trigger, spec.target, gate, recipe, scratch, folder)


def fine_tune(clip: Clip, pairs: Poisoned, options: TrainOptions, seed: int, label: str) -> None:
    """Train all of ``clip`` on ``pairs`` with the contrastive loss, in place."""
    ids = clip.tokenize(pairs.captions)
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
                yield pairs.images[rows].float() / 255, ids[rows]

    def loss(batch: tuple[Tensor, ...]) -> Tensor:
        images = functional.normalize(clip.model.encode_image(normalise(clip, batch[0])), dim=-1)
        texts = functional.normalize(clip.model.encode_text(batch[1]), dim=-1)
        return contrastive_loss(clip.model.logit_scale.exp(), images, texts)

    train_contrastive(clip.model, batches(), loss, options, total)


def measure(clip: Clip, manifest: Manifest, split: Split, trigger: Trigger, target: str) -> tuple[float, float]:
    """Zero-shot clean accuracy and attack success rate on ``split``, in percent."""
    names = manifest.description.class_names
    classifier = zero_shot(StagedCLIP(clip), names, manifest.description.template)
    images, labels = split.batch(slice(None)), split.labels.tolist()
    clean = predict(classifier, images).tolist()
    triggered = predict(classifier, trigger.apply(images, sample_seeds(0, range(len(labels))))).tolist()
    ca = count(outcomes("CA", clean, labels, None)).percent
    asr = count(outcomes("ASR", triggered, labels, names.index(target))).percent
    return ca, asr
