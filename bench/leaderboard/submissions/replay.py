"""Showing adversarial images to a row's own model."""

import numpy as np
import numpy.typing as npt
import torch

from bench.backdoors.checkpoint import load_checkpoint
from bench.clip.classifier import predict
from bench.config import Suite
from bench.datasets.halves import part_of
from bench.datasets.store import read_manifest
from bench.defenses.artefact import artefact_name, load_artefact, parts_of, task_of
from bench.errors import UserError
from bench.evaluation.record import Record
from bench.paths import Paths


def predictions_on(
    suite: Suite, paths: Paths, track: str, record: Record, images: npt.NDArray[np.float32]
) -> list[int]:
    """What the defended model of a record says to images, in float32.

    Args:
        suite: The benchmark.
        paths: Where the models are.
        track: Which track the record is of.
        record: Of the model to ask.
        images: ``(n, 3, h, w)`` in [0,1].

    Raises:
        UserError: The model is not on this machine, or is another one than the record's.
    """
    cell, plan = record.identity.cell, suite.tracks[track]
    parts = parts_of(plan, cell.defense, f"{paths.suite}: tracks.{track}.defenses.{cell.defense}")
    name = artefact_name(parts, plan.tuned_on(cell.defense, cell.dataset), cell.seed)
    checkpoint = load_checkpoint(paths.checkpoint(cell.checkpoint))
    card, defended = load_artefact(paths.defended(track, cell.defense, cell.checkpoint) / name, parts, checkpoint)
    if (checkpoint.digest, card.digest) != (record.identity.checkpoint, record.identity.artefact) or defended is None:
        raise UserError(f"the model of {cell.defense}, {cell.name}, here is another one than that of the boards")
    manifest = read_manifest(paths.data, cell.dataset)
    classifier = defended.classifier(task_of(manifest, card.template, part_of(manifest, cell.split).classes))
    return predict(classifier, torch.from_numpy(images)).tolist()
