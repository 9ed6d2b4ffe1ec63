"""Cells from tuning to the verdict on the device."""

import pytest

from bench.backdoors.checkpoint import load_checkpoint
from bench.config import Suite
from bench.defenses.fitting import fit_all
from bench.evaluation.run import evaluate
from bench.paths import Paths
from tests.pretend_device import pretending

from .conftest import CONTENT

DEFENSES = list(CONTENT["tracks"]["robust"]["defenses"])


@pytest.mark.parametrize("defense", DEFENSES)
def test_every_defense_is_tuned_and_evaluated(
    defense: str, computing: None, suite: Suite, elsewhere: Paths, exact: None
) -> None:
    with pretending():
        fit_all(suite, "robust", defense, "clean", load_checkpoint(elsewhere.checkpoint("clean")), elsewhere)
    # What is loaded takes the place of values that layers draw where they are made.
    with pretending(drawn=True):
        (record,) = evaluate(suite, "robust", defense, "pgd", elsewhere)
        assert record.state == "done", record.reason
        assert record.provenance.device == "a pretended accelerator"
        assert record.cost.peak_memory_mb == 3
