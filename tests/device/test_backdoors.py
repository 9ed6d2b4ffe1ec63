"""Triggers and poisoned checkpoints made on the device, beside the same made on the processor."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench.backdoors.checkpoint import Checkpoint
from bench.backdoors.make import make_checkpoint
from bench.backdoors.poison import Poisoned, poison
from bench.backdoors.steganography import SteganographyOptions, make_steganography
from bench.backdoors.trigger import Setting, Trigger, make_trigger
from bench.clip.model import build
from bench.config import CheckpointSpec
from bench.datasets.store import open_split, read_manifest
from bench.items import item_ids
from bench.paths import Paths
from tests.analyses.conftest import MINI
from tests.pretend_device import NAME, pretending

PATCH = {"size": 4, "images": 16, "epochs": 1, "batch_size": 8}
TRIGGERS: dict[str, dict[str, Any]] = {
    "badnet": {"size": 4},
    "badclip": PATCH,
    "blended": {},
    "issba": {"least_bit_accuracy": 0},
    "label_consistent": {"size": 4, "steps": 2},
    "trojvqa": PATCH | {"partial": 1},
    "wanet": {"k": 4, "cross_ratio": 1},
}
NETWORKS = {"dataset": "captions", "bits": 56, "enlarge": 2, "widths": (8, 16), "batch_size": 4, "steps": 2}
SPEC = {
    "base": MINI, "trigger": "badnet", "trigger_options": TRIGGERS["badnet"], "target": "heart", "dataset": "shapes",
    "pairs": "captions", "poison_rate": 0.2, "train": {"epochs": 1, "batch_size": 16},
    "gate": {"least_asr": 0, "largest_ca_loss": 100},
}  # fmt: skip


def test_every_trigger_is_planted_below() -> None:
    assert sorted([*TRIGGERS, "none"]) == item_ids("backdoors")


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", TRIGGERS)
def test_a_trigger_is_made_and_planted_as_on_the_processor(
    name: str, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, poisoned = planted(name, paths, tmp_path / "here")
    monkeypatch.setenv("BENCH_DEVICE", NAME)
    with pretending():
        found, also = planted(name, paths, tmp_path / "there")
    for key, tensor in expected.kept.items():
        torch.testing.assert_close(found.kept[key], tensor, rtol=1e-3, atol=1e-4)
    assert (also.rows, also.captions) == (poisoned.rows, poisoned.captions)
    for row, image in poisoned.planted.items():
        # Bytes: rounding may take another way at a half.
        torch.testing.assert_close(also.planted[row].int(), image.int(), rtol=0, atol=1)


@pytest.mark.usefixtures("exact")
def test_a_backdoored_checkpoint_is_made_as_on_the_processor(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (paths._replace(models=tmp_path / name, store=tmp_path / name) for name in ("here", "there"))
    expected = checkpoint(here)
    monkeypatch.setenv("BENCH_DEVICE", NAME)
    with pretending():
        found = checkpoint(there)
        assert found.clip.model.logit_scale.device.type == NAME
    assert found.card.provenance.device == "a pretended accelerator"
    assert (found.card.gate, found.card.recipe) == (expected.card.gate, expected.card.recipe)
    stored, other = (load_file(place.checkpoint("badnet") / "weights.safetensors") for place in (here, there))
    for name, tensor in stored.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-2, atol=1e-3)


def planted(name: str, paths: Paths, folder: Path) -> tuple[Trigger, Poisoned]:
    if name == "issba":
        make_steganography(SteganographyOptions(**NETWORKS), paths.data, folder)
    pairs = open_split(paths.data, read_manifest(paths.data, "captions"), "train")
    setting = Setting(build("mini"), "heart", pairs, 1, folder)
    trigger = make_trigger(name, TRIGGERS[name], setting, "test")
    return trigger, poison(trigger, setting, 0.2)


def checkpoint(paths: Paths) -> Checkpoint:
    return make_checkpoint("badnet", CheckpointSpec.model_validate(SPEC), paths)
