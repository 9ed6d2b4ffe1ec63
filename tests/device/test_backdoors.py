"""Poisoned checkpoints made on the device, beside the same made on the processor."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench.backdoors.checkpoint import Checkpoint
from bench.backdoors.make import make_checkpoint
from bench.backdoors.steganography import SteganographyOptions, make_steganography
from bench.config import CheckpointSpec
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


def test_every_trigger_is_planted_below() -> None:
    assert sorted([*TRIGGERS, "none"]) == item_ids("backdoors")


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_backdoor_planted_on_the_device_is_that_of_the_processor(
    trigger: str, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (paths._replace(models=tmp_path / name, store=tmp_path / name) for name in ("here", "there"))
    expected = planted(trigger, here)
    monkeypatch.setenv("BENCH_DEVICE", NAME)
    with pretending():
        found = planted(trigger, there)
        assert found.clip.model.logit_scale.device.type == NAME
    assert found.card.provenance.device == "a pretended accelerator"
    assert (found.card.gate, found.card.recipe) == (expected.card.gate, expected.card.recipe)
    for file in ("weights.safetensors", "trigger.safetensors"):
        for name, tensor in load_file(here.checkpoint(trigger) / file).items():
            other = load_file(there.checkpoint(trigger) / file)[name]
            torch.testing.assert_close(other, tensor, rtol=1e-2, atol=1e-3)


def planted(trigger: str, paths: Paths) -> Checkpoint:
    spec = CheckpointSpec.model_validate(
        {
            "base": MINI, "trigger": trigger, "trigger_options": TRIGGERS[trigger], "target": "heart",
            "dataset": "shapes", "pairs": "captions", "poison_rate": 0.2, "train": {"epochs": 1, "batch_size": 16},
            "gate": {"least_asr": 0, "largest_ca_loss": 100},
        }
    )  # fmt: skip
    if trigger == "issba":
        make_steganography(SteganographyOptions(**NETWORKS), paths.data, paths.steganography)
    return make_checkpoint(trigger, spec, paths)
