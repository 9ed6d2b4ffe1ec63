import itertools
import subprocess
import sys

import pytest

from bench.config import Suite
from bench.errors import UserError
from bench.leaderboard.collect import Row, write_cells


def collected(house) -> str:
    write_cells(house.suite, house.paths)
    return (house.paths.boards / "cells.csv").read_text()


def test_a_row_holds_what_was_computed_by_hand(house):
    house.fill()
    house.put("robust", "nap", "pgd", "1110", flags=("zero_gradient", "nan"))
    line = next(line for line in collected(house).splitlines() if line.startswith("robust,nap,plain,shapes,test,pgd"))
    # Wilson's interval of 3 of 4: centre (0.75 + 0.4802) / 1.9604, half width 0.3241.
    expected = (
        "robust,nap,plain,shapes,test,pgd,white_box,8,1,RA,done,,4,3,75.0000,30.0642,95.4413,"
        "control_survives nan zero_gradient,7,0,0.000000,101.00,100.50,"
        "cccccccccccc,aaaaaaaaaaaa,mmmmmmmmmmmm,aaaaaaaaaaaa,3,"
    )
    assert line == expected


def test_rows_come_in_the_order_of_the_suite(house):
    house.fill()
    cells = house.collect()
    assert list(cells.columns) == list(Row._fields)
    robust = cells[cells.track == "robust"]
    attacks = ("clean", "pgd", "autoattack", "worst")
    assert list(zip(robust.defense, robust.dataset, robust.attack, strict=True)) == list(
        itertools.product(("none", "nap"), ("shapes", "digits"), attacks)
    )
    assert list(dict.fromkeys(cells.track)) == ["robust", "backdoor"]


def test_seeds_come_last_and_the_control_has_one(house):
    house.content["protocol"]["seeds"] = [2, 1]
    house.put("backdoor", "rvpt", "clean", "1", seed=1)
    house.put("backdoor", "none", "trigger", "1", seed=2)
    house.put("robust", "nap", "pgd", "1", seed=1)
    house.put("robust", "nap", "autoattack", "1", seed=1)
    cells = house.collect()
    rvpt = cells[(cells.defense == "rvpt") & (cells.checkpoint == "badnet")]
    assert list(zip(rvpt.attack, rvpt.seed, strict=True)) == [
        ("clean", 2),
        ("clean", 1),
        ("trigger", 2),
        ("trigger", 1),
    ]
    assert set(cells[cells.defense == "none"].seed) == {2}
    worst = cells[(cells.defense == "nap") & (cells.dataset == "shapes") & (cells.attack == "worst")]
    assert list(zip(worst.seed, worst.state, strict=True)) == [(2, "missing"), (1, "done")]


def test_twice_the_same_bytes_whatever_the_order_of_writing_and_the_machine(house):
    house.fill()
    first = collected(house)
    assert collected(house) == first
    files = sorted(house.paths.results.rglob("*.json"))
    contents = [(path, path.read_text()) for path in files]
    for path in files:
        path.unlink()
    for path, content in reversed(contents):
        path.write_text(content.replace('"commit": "abc"', '"commit": "def"').replace('"wall_s": 1.5', '"wall_s": 9'))
    assert collected(house) == first


def test_a_cell_without_record_is_missing(house):
    house.fill()
    house.put("robust", "nap", "pgd", "1").unlink()
    row = house.row(track="robust", defense="nap", dataset="shapes", attack="pgd")
    assert (row.state, row.metric, row.reason, row.tuned_parameters, row.checkpoint_hash) == (
        "missing",
        "RA",
        "",
        "",
        "",
    )
    assert row.value != row.value


def test_the_metric_of_an_attack_without_any_record_is_that_of_its_file(house):
    assert house.row(track="backdoor", defense="rvpt", checkpoint="badnet", attack="trigger").metric == "ASR"


@pytest.mark.parametrize("state", ["failed", "diverged", "timeout", "attack_failed"])
def test_a_state_keeps_its_reason_on_one_line_and_has_no_numbers(house, state):
    house.fill()
    house.put("robust", "nap", "pgd", state=state, reason="too\n  weak")
    row = house.row(track="robust", defense="nap", dataset="shapes", attack="pgd")
    assert (row.state, row.reason, row.forwards_per_image, row.checkpoint_hash) == (state, "too weak", "", "c" * 12)
    assert row.n != row.n
    assert row.value != row.value


def test_the_worst_case_counts_images_that_resist_every_attack_on_common_rows(house):
    house.fill("0000")
    house.put("robust", "nap", "pgd", "110110", rows=(0, 2, 4, 6, 8, 9), flags=("nan",))
    house.put("robust", "nap", "autoattack", "0111", rows=(2, 4, 6, 8), flags=("zero_gradient",))
    row = house.row(track="robust", defense="nap", dataset="shapes", attack="worst")
    # Rows in common are 2, 4, 6, 8: pgd hits 1, 0, 1, 1 and autoattack 0, 1, 1, 1; both: 6 and 8.
    assert (row.state, row.metric, row.threat_model, row.reason) == ("done", "RA", "white_box", "")
    assert (row.n, row.hits, row.value) == (4, 2, 50.0)
    assert (row.low, row.high) == (15.0039, 84.9961)
    assert row.flags == "nan zero_gradient"
    assert (row.checkpoint_hash, row.attack_hash, row.forwards_per_image) == ("c" * 12, "", "")


def test_the_worst_case_is_over_white_box_attacks_only(house):
    house.content["tracks"]["robust"]["attacks"] = ["clean", "pgd", "replay"]
    house.fill()
    assert "worst" not in set(house.collect().attack)
    house.content["tracks"]["robust"]["attacks"] = ["clean", "pgd", "replay", "autoattack"]
    house.fill("1111")
    house.put("robust", "nap", "replay", "0000")
    assert house.row(track="robust", defense="nap", dataset="shapes", attack="worst").value == 100


def test_the_worst_case_of_fewer_than_two_finished_attacks_has_the_state_of_the_unfinished(house):
    house.fill()
    house.put("robust", "nap", "autoattack", state="timeout", reason="slow")
    row = house.row(track="robust", defense="nap", dataset="shapes", attack="worst")
    assert (row.state, row.reason, row.metric) == ("timeout", "slow", "RA")


def test_the_worst_case_says_which_attack_it_lacks(house):
    house.content["attacks"]["replay"]["threat_model"] = "white_box"
    house.content["tracks"]["robust"]["attacks"] = ["pgd", "replay", "autoattack"]
    for attack in ("pgd", "autoattack"):
        house.put("robust", "nap", attack, "11")
    house.put("robust", "none", "replay", "11")
    row = house.row(track="robust", defense="nap", dataset="shapes", attack="worst")
    assert (row.state, row.value, row.reason) == ("done", 100, "without replay (missing)")


def test_a_worst_case_over_different_models_is_refused(house):
    house.fill()
    house.put("robust", "nap", "pgd", "1", hashed={"artefact": "older"})
    with pytest.raises(UserError, match=r"nap, plain\.shapes\.test\.seed1: .* pgd, autoattack .*out of date"):
        house.collect()


def test_a_surviving_control_flags_every_row_of_its_attack_and_place(house):
    house.fill("0" * 20)
    house.put("robust", "none", "pgd", "11" + "0" * 18)
    house.put("robust", "nap", "pgd", state="diverged", reason="loss is NaN", flags=("nan",))
    cells = house.collect()
    flagged = cells[cells["flags"].str.contains("control_survives")]
    assert list(zip(flagged.defense, flagged.dataset, flagged.attack, flagged["flags"], strict=True)) == [
        ("none", "shapes", "pgd", "control_survives"),
        ("nap", "shapes", "pgd", "control_survives nan"),
    ]


def test_a_control_at_the_ceiling_does_not_survive(house):
    house.content["tracks"]["robust"]["attacks"] = ["clean", "pgd"]
    house.fill("1")
    for dataset in ("shapes", "digits"):
        house.put("robust", "none", "pgd", "1" + "0" * 19, dataset=dataset)
    assert set(house.collect()["flags"]) == {""}


def test_a_control_survives_a_grey_box_attack_too_because_it_is_made_on_the_control(house):
    house.content["tracks"]["robust"]["attacks"] = ["clean", "pgd", "replay"]
    house.fill("0" * 20)
    house.put("robust", "none", "replay", "11" + "0" * 18)
    cells = house.collect()
    flagged = cells[cells["flags"] == "control_survives"]
    assert set(zip(flagged.defense, flagged.dataset, flagged.attack, strict=True)) == {
        ("none", "shapes", "replay"),
        ("nap", "shapes", "replay"),
    }


def test_a_control_that_only_one_attack_spares_does_not_survive_the_worst_case(house):
    house.fill("0000")
    house.put("robust", "none", "pgd", "1111")
    assert house.row(track="robust", defense="nap", dataset="shapes", attack="worst").flags == ""
    house.put("robust", "none", "autoattack", "1111")
    assert house.row(track="robust", defense="nap", dataset="shapes", attack="worst").flags == "control_survives"


@pytest.mark.parametrize("content", ["", "{", '{"metric": "RA"}', b"\xff\xfe"])
def test_a_damaged_record_is_named(house, content):
    path = house.put("robust", "nap", "pgd", "1")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        UserError, match=r"plain\.shapes\.test\.seed1\.json is damaged .* bench evaluate robust nap pgd"
    ):
        house.collect()


def test_a_limited_record_is_refused(house):
    path = house.put("robust", "nap", "pgd", "1", limit=8)
    with pytest.raises(UserError, match=f"{path} was made with --limit 8"):
        house.collect()


def test_a_record_under_the_name_of_another_cell_is_refused(house):
    path = house.put("robust", "nap", "pgd", "1")
    path.rename(path.with_name("copy.json"))
    with pytest.raises(UserError, match=r"copy\.json holds the record of nap under pgd, plain\.shapes\.test\.seed1"):
        house.collect()


def test_records_that_the_suite_does_not_ask_for_are_left_alone(house):
    house.fill()
    first = collected(house)
    house.put("robust", "nap", "pgd", "1111", checkpoint="blended")
    house.put("robust", "nap", "replay", "1111")
    assert collected(house) == first


def test_an_attack_must_not_take_the_name_of_the_derived_rows(house):
    house.content["attacks"]["worst"] = {"threat_model": "none"}
    with pytest.raises(UserError, match=r"attacks\.worst"):
        write_cells(Suite.model_validate(house.content), house.paths)


def test_the_light_verbs_do_not_load_torch():
    program = "import sys, bench.leaderboard.table, bench.leaderboard.verify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
