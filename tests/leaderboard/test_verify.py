from pathlib import Path

import pytest

from bench.errors import UserError
from bench.leaderboard.verify import IDS, read_cells, verify_boards

ROOT = Path(__file__).parents[2]


@pytest.fixture
def committed(house):
    house.fill("1100")
    house.put("backdoor", "rvpt", "trigger", state="diverged", reason="loss")
    return house.collect()


def test_the_same_run_agrees(committed):
    assert verify_boards(committed, committed.copy()) == []


def test_a_value_inside_the_interval_agrees_and_more_cells_do_no_harm(house, committed):
    house.put("robust", "nap", "clean", "1110")
    measured = house.collect()
    assert verify_boards(committed, measured) == []
    assert verify_boards(committed[committed.track == "robust"], measured) == []


def test_a_value_outside_the_interval_is_told_with_both_values(house, committed):
    house.put("robust", "nap", "clean", "1111")
    assert verify_boards(committed, house.collect()) == [
        "CA of nap under clean (none) on plain.shapes.test.seed1, track robust: committed 50.0000 [15.0039, 84.9961], "
        "measured 100.0000 [51.0109, 100.0000]: outside the interval."
    ]


def test_it_is_the_committed_interval_that_counts_below_too(house, committed):
    house.put("robust", "nap", "clean", "0000")
    (fault,) = verify_boards(committed, house.collect())
    assert "committed 50.0000 [15.0039, 84.9961], measured 0.0000 [0.0000, 48.9891]: outside the interval." in fault


def test_runs_on_other_machines_widen_the_interval(house, committed):
    house.put("robust", "nap", "clean", "1111")
    elsewhere = house.collect()
    (fault,) = verify_boards(committed, elsewhere)
    assert "[15.0039, 84.9961], measured 100.0000" in fault
    assert verify_boards(committed, elsewhere, [elsewhere]) == []
    assert verify_boards(committed, elsewhere, [elsewhere.iloc[:0]]) == [fault]
    house.put("robust", "nap", "clean", "0000")
    (fault,) = verify_boards(committed, house.collect(), [elsewhere])
    assert "[15.0039, 100.0000], measured 0.0000" in fault


def test_a_run_that_ended_in_another_state_widens_nothing(house, committed):
    house.put("robust", "nap", "clean", state="failed", reason="memory")
    failed = house.collect()
    house.put("robust", "nap", "clean", "1111")
    assert len(verify_boards(committed, house.collect(), [failed])) == 1
    assert "another state" in verify_boards(committed, failed, [failed])[0]


@pytest.mark.parametrize(("value", "agrees"), [(84.9961, True), (84.9961005, True), (84.9962, False), (15.0, False)])
def test_the_bounds_are_part_of_the_interval(committed, value, agrees):
    measured = committed.copy()
    measured.loc[0, "value"] = value
    assert (verify_boards(committed, measured) == []) == agrees


def test_a_row_that_was_not_measured_is_told(committed):
    faults = verify_boards(committed, committed.drop(index=1))
    assert len(faults) == 1
    assert faults[0].startswith("RA of none under pgd (white_box) on plain.shapes.test.seed1, track robust")
    assert faults[0].endswith("but not measured at all.")


def test_a_changed_state_is_told_either_way(house, committed):
    house.put("backdoor", "rvpt", "trigger", "1100")
    measured = house.collect()
    (fault,) = verify_boards(committed, measured)
    assert "committed diverged, measured 50.0000 [15.0039, 84.9961]: another state." in fault
    (fault,) = verify_boards(measured, committed)
    assert "committed 50.0000 [15.0039, 84.9961], measured diverged: another state." in fault


def test_a_number_that_vanished_is_told(house, committed):
    house.put("robust", "nap", "clean", "")
    measured = house.collect()
    (fault,) = verify_boards(committed, measured)
    assert "measured nan" in fault
    assert verify_boards(measured, measured) == []


def test_ids_that_pandas_would_take_for_nothing_stay_text(house):
    house.content["tracks"]["backdoor"]["defenses"] = {"none": {}, "nan": {}}
    house.fill()
    assert set(house.collect().defense) == {"none", "nap", "nan"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "has the columns"),
        (lambda text: text.replace("threat_model", "threat", 1), "has the columns"),
        (lambda text: text + "<<<<<<< HEAD\n", "has 1 values"),
        (lambda text: text.replace("50.0000", "fifty", 1), "column value"),
        (lambda text: text + text.splitlines()[1] + "\n", "names a cell twice: CA of none under clean"),
    ],
)
def test_a_damaged_file_is_named(house, committed, damage, message):
    path = house.paths.boards / "cells.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=message) as raised:
        read_cells(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match="bench collect"):
        read_cells(tmp_path / "cells.csv")


@pytest.mark.parametrize("path", sorted((ROOT / "leaderboards" / "runs").glob("*.csv")), ids=lambda path: path.stem)
def test_a_committed_run_is_of_the_committed_suite(path):
    """Same cells on the same images under the same attacks; only what was trained may differ."""
    same = ["n", "poisoned", "poison_rate", "manifest_hash", "protocol_version", "threat_model", "eps"]
    boards = read_cells(ROOT / "leaderboards" / "cells.csv").set_index(list(IDS), drop=False)
    run = read_cells(path).set_index(list(IDS), drop=False)
    assert len(run)
    assert set(run.index) <= set(boards.index)
    assert run[same].equals(boards.loc[run.index, same])
