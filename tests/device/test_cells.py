"""Cells from tuning to the verdict on the device."""

import pytest
import torch

from bench.backdoors.checkpoint import load_checkpoint
from bench.config import Suite
from bench.defenses.fitting import fit_all
from bench.evaluation.run import evaluate
from bench.paths import Paths

from .conftest import CONTENT

DEFENSES = list(CONTENT["tracks"]["robust"]["defenses"])


@pytest.mark.parametrize("defense", DEFENSES)
def test_every_defense_is_tuned_and_evaluated(
    defense: str, pretend: torch.device, suite: Suite, elsewhere: Paths, exact: None
) -> None:
    checkpoint = load_checkpoint(elsewhere.checkpoint("clean"))
    fit_all(suite, "robust", defense, "clean", checkpoint, elsewhere)
    for attack in ("clean", "pgd"):
        (record,) = evaluate(suite, "robust", defense, attack, elsewhere)
        assert record.state == "done", record.reason
        assert record.provenance.device == "a pretended accelerator"
        assert record.cost.peak_memory_mb == 3
