"""The committed results of NAP-Tuning's mini suite: no part of AutoAttack, nor PGD, is stronger than the whole."""

from pathlib import Path

import pytest

from bench.config import Suite, load_suite
from bench.evaluation.record import Record
from bench.leaderboard.records import committed_records
from bench.paths import paths_for

SUITE = Path(__file__).parents[2] / "leaderboards/nap_tuning_mini/benchmark.yaml"
PARTS = ("apgd_ce", "apgd_t", "fab_t", "square")
Robust = dict[tuple[str, str, str], dict[int, bool]]


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite(SUITE)


@pytest.fixture(scope="module")
def robust(suite: Suite) -> Robust:
    """For a defense, dataset and attack on the larger model: which rows the defense is right on."""
    records = committed_records(suite, paths_for(SUITE))
    return {
        (cell.defense, cell.dataset, cell.attack): _right(record)
        for (track, cell), record in records.items()
        if track in ("main", "parts")
    }


def _right(record: Record) -> dict[int, bool]:
    outcome = record.outcome
    assert record.state == "done", record.reason
    assert outcome is not None
    answers = zip(outcome.rows, outcome.labels, outcome.predictions, strict=True)
    return {row: label == prediction for row, label, prediction in answers}


def test_no_part_of_autoattack_and_no_pgd_is_stronger_than_autoattack(suite: Suite, robust: Robust) -> None:
    for name, plan in (("parts", suite.tracks["parts"]), ("main", suite.tracks["main"])):
        others = PARTS if name == "parts" else ("pgd",)
        for defense in plan.defenses:
            for dataset in plan.datasets:
                whole = robust[defense, dataset, "autoattack"]
                for attack in others:
                    alone = robust[defense, dataset, attack]
                    shared = whole.keys() & alone.keys()
                    assert len(shared) == min(len(whole), len(alone))
                    left, left_alone = (sum(each[row] for row in shared) for each in (whole, alone))
                    assert left <= left_alone, f"{defense} on {dataset}: {left} under autoattack, {left_alone} {attack}"


def test_the_parts_are_told_apart(robust: Robust) -> None:
    """Where each part left the same images, the comparison above would prove nothing."""
    left = {
        attack: [sum(rows.values()) for (_, _, found), rows in sorted(robust.items()) if found == attack]
        for attack in PARTS
    }
    assert len(set(map(tuple, left.values()))) > 1, left
