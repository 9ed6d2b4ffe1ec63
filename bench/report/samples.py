"""Sample images for the report: clean, triggered and adversarial, with what the undefended model calls them.

They are made from data and checkpoints where these are there. They are no results: the numbers are in the boards.
"""

import base64
import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from bench.attacks.checked import run_attack
from bench.attacks.contract import Knowledge
from bench.backdoors.checkpoint import Checkpoint, load_checkpoint
from bench.clip.classifier import predict
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import StagedCLIP
from bench.config import Suite, Track
from bench.datasets.halves import part_of
from bench.datasets.store import Split, open_split, read_manifest
from bench.defenses.artefact import task_of
from bench.errors import UserError
from bench.evaluation.adversary import Attacker, load_attacker
from bench.paths import Paths
from bench.progress import track as shown
from bench.randomness import sample_seeds

_LARGEST_SIDE = 112


class Sample(NamedTuple):
    """One image.

    Attributes:
        truth: Its class.
        called: What the undefended model calls it; empty for a picture of a change.
        uri: The image as a PNG data URI.
    """

    truth: str
    called: str
    uri: str


class Strip(NamedTuple):
    """The same images under several conditions.

    Attributes:
        title: Which model and dataset.
        conditions: By what was done to them, the images in the same order.
    """

    title: str
    conditions: dict[str, list[Sample]]


def sample_strips(suite: Suite, paths: Paths, count: int) -> tuple[list[Strip], list[str]]:
    """Samples for every checkpoint and dataset of the tracks.

    Args:
        suite: The benchmark.
        paths: Where data and checkpoints are.
        count: Images for each, of as many classes; the backdoor's class is left out.

    Returns:
        The strips, and for each that could not be made the reason.
    """
    places = {
        (name, data): plan for plan in suite.tracks.values() for name in plan.checkpoints for data in plan.datasets
    }
    strips, missing = list[Strip](), list[str]()
    for (checkpoint, dataset), plan in shown(list(places.items()), "sample images"):
        try:
            strips.append(_strip(suite, plan, checkpoint, dataset, paths, count))
        except UserError as error:
            missing.append(f"{checkpoint} on {dataset}: {error}")
    return strips, missing


def _strip(suite: Suite, plan: Track, name: str, dataset: str, paths: Paths, count: int) -> Strip:
    checkpoint = load_checkpoint(paths.checkpoint(name))
    manifest = read_manifest(paths.data, dataset)
    split = open_split(paths.data, manifest, part_of(manifest, plan.splits[0]).split)
    names = manifest.description.class_names
    rows = _rows(split, names, checkpoint.card.target, count)
    model = DefendedCLIP(StagedCLIP(checkpoint.clip)).classifier(task_of(manifest))
    clean, labels = split.batch(rows), split.targets(rows)
    truths = [names[label] for label in labels.tolist()]

    def samples(images: Tensor, said: list[str]) -> list[Sample]:
        return [Sample(truth, name, _uri(image)) for truth, name, image in zip(truths, said, images, strict=True)]

    def called(images: Tensor) -> list[str]:
        return [names[label] for label in predict(model, images).tolist()]

    conditions = {"clean": samples(clean, called(clean))}
    for attacker in _attackers(suite, plan, checkpoint, paths):
        attacked = run_attack(
            attacker.module,
            model,
            clean,
            labels,
            options=attacker.options,
            seeds=sample_seeds(suite.protocol.seeds[0], rows),
            knowledge=Knowledge(checkpoint.trigger),
        ).images
        conditions[attacker.name] = samples(attacked, called(attacked))
        if attacker.module.METRIC == "RA":
            conditions[f"change by {attacker.name}, amplified"] = samples(
                _amplified(attacked - clean), [""] * len(rows)
            )
    return Strip(f"{name} on {dataset}", conditions)


def _rows(split: Split, names: tuple[str, ...], target: str | None, count: int) -> list[int]:
    """The first image of each of the first ``count`` classes."""
    present, first = np.unique(split.labels, return_index=True)
    return [int(row) for label, row in zip(present, first, strict=True) if names[label] != target][:count]


def _attackers(suite: Suite, plan: Track, checkpoint: Checkpoint, paths: Paths) -> list[Attacker]:
    """What is done to the samples: the trigger, if there is one, and the track's first white-box attack."""
    attackers = [load_attacker(suite, name, paths) for name in plan.attacks]
    triggered = [one for one in attackers if one.module.METRIC == "ASR" and checkpoint.trigger is not None]
    white_box = [one for one in attackers if suite.attacks[one.name].threat_model == "white_box"]
    return [*triggered[:1], *white_box[:1]]


def _amplified(change: Tensor) -> Tensor:
    """A change around grey, its largest value at the end of the range."""
    return (0.5 + 0.5 * change / change.abs().amax().clamp(min=1e-6)).clamp(0, 1)


def _uri(image: Tensor) -> str:
    picture = to_pil_image((image * 255).round().to(torch.uint8))
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")
