import csv

import pytest

from bench.leaderboard.standing import ranking, ranks, with_worst_known
from tests.leaderboard.test_join import long


def known(house) -> dict[tuple[str, ...], float]:
    cells = with_worst_known(house.collect())
    return {
        (cell.defense, cell.dataset, cell.attack): cell.worst_known
        for cell in cells[cells["track"] == "robust"].itertuples()
    }


def test_the_lowest_value_of_all_attacks_counts(house):
    house.fill("1111")
    house.put("robust", "nap", "pgd", "1100")
    house.put("robust", "nap", "autoattack", "0110")
    found = known(house)
    # Each alone leaves half of the images, together they leave one of four.
    assert (
        found["nap", "shapes", "pgd"] == found["nap", "shapes", "autoattack"] == found["nap", "shapes", "worst"] == 25
    )
    assert found["nap", "shapes", "clean"] == 100
    assert found["nap", "digits", "pgd"] == 100


def test_an_attack_over_many_images_may_be_lower_than_the_worst_case_over_few(house):
    house.fill("1111")
    house.put("robust", "nap", "pgd", "11000000")
    house.put("robust", "nap", "autoattack", "11")
    assert house.row(track="robust", defense="nap", dataset="shapes", attack="worst").value == 100
    assert known(house)["nap", "shapes", "autoattack"] == 25


def test_an_attack_with_a_larger_eps_does_not_count_against_a_smaller_one(house):
    house.fill("1111")
    house.put("robust", "nap", "pgd", "1100", eps=4)
    house.put("robust", "nap", "autoattack", "0000")
    found = known(house)
    assert (found["nap", "shapes", "pgd"], found["nap", "shapes", "autoattack"]) == (50, 0)
    assert found["nap", "shapes", "worst"] == 0


def test_what_has_no_number_has_no_worst(house):
    house.fill("1111")
    house.put("robust", "nap", "pgd", state="failed", reason="why")
    found = known(house)
    assert found["nap", "shapes", "pgd"] != found["nap", "shapes", "pgd"]
    assert found["nap", "shapes", "autoattack"] == 100


@pytest.mark.parametrize(("metric", "expected"), [("RA", [2, 1, 2, 4]), ("ASR", [2, 4, 2, 1]), ("CA", [2, 1, 2, 4])])
def test_equal_values_share_a_rank(metric, expected):
    assert ranks(metric, [50.0, 70.0, 50.0, 10.0]) == expected


def test_defenses_are_ranked_by_the_mean_over_places(house):
    house.content["tracks"]["robust"]["defenses"]["fap"] = {}
    house.fill("0000")
    house.put("robust", "nap", "pgd", "1111")
    house.put("robust", "nap", "autoattack", "1100")
    house.put("robust", "fap", "autoattack", state="timeout", reason="slow", dataset="digits")
    board = ranking(with_worst_known(house.collect()))
    assert [(line["rank"], line["defense"], line["worst_known"]) for line in board if line["metric"] == "RA"] == [
        (1, "nap", 25.0),
        (2, "none", 0.0),
        (None, "fap", None),
    ]


def test_backdoors_are_ranked_by_the_highest_success(house):
    house.fill("1111")
    house.put("backdoor", "rvpt", "trigger", "1000", checkpoint="badnet")
    _, text = house.table("rvpt_1")
    ranked = text.partition("## Ranking")[2]
    assert "|      1 | rvpt      | ASR      |         62.50 |" in ranked
    assert "|      2 | none      | ASR      |        100.00 |" in ranked


def test_a_backdoor_that_was_not_planted_is_no_place_to_rank_at(house):
    house.fill("1111")
    for defense in ("none", "rvpt"):
        house.put("backdoor", defense, "trigger", state="attack_failed", reason="weak", checkpoint="blended")
    house.put("backdoor", "rvpt", "trigger", "1000", checkpoint="badnet")
    board = [line for line in ranking(with_worst_known(house.collect())) if line["metric"] == "ASR"]
    assert [(line["rank"], line["defense"], line["worst_known"]) for line in board] == [
        (1, "rvpt", 25.0),
        (2, "none", 100.0),
    ]


def test_where_the_control_survives_nobody_is_ranked(house):
    house.fill("1111")
    _, text = house.table("nap_1")
    assert "Ranking" not in text
    assert {line["rank"] for (row, _), line in long(house).items() if row.startswith("PGD")} == {""}


def test_ranks_stand_in_the_long_csv(house):
    house.fill("0000")
    house.put("robust", "nap", "pgd", "1100")
    house.put("robust", "nap", "autoattack", "1111")
    lines = long(house)
    place = ("PGD-100 / nap", "Shapes"), ("PGD-100 / CLIP", "Shapes"), ("PGD-100 / CLIP", "digits")
    assert [lines[each]["rank"] for each in place] == ["1", "2", "1"]
    assert lines["autoattack / nap", "Shapes"]["worst_known"] == "50.0000"
    assert lines["Worst case / nap", "Shapes"]["records"] == ""


def test_latex_is_escaped(house):
    house.content["protocol"]["seeds"] = [1, 2]
    house.content["tables"]["nap_1"]["names"] |= {"digits": "50 % & more_digits"}
    house.put("robust", "nap", "clean", "1000", seed=1)
    house.put("robust", "nap", "clean", "1100", seed=2)
    house.table("nap_1")
    text = (house.paths.boards / "nap_1.tex").read_text()
    assert r"37.5 $\pm$ 17.7" in text
    assert r"50 \% \& more\_digits" in text
    assert "±" not in text
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body[:2] == [r"\begin{tabular}{llrrrl}", r"\toprule"]
    assert body[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_the_long_csv_is_read_by_any_program(house):
    house.content["protocol"]["seeds"] = [1, 2]
    house.fill("1000")
    for seed, hits in ((1, "1000"), (2, "1100")):
        house.put("robust", "nap", "clean", hits, seed=seed)
    house.table("nap_1")
    with (house.paths.boards / "nap_1.long.csv").open(newline="") as file:
        line = next(line for line in csv.DictReader(file) if line["row"] == "clean / nap")
    assert (line["measured"], line["deviation"], line["low"], line["seeds"]) == ("37.5000", "17.6777", "", "1 2")
    assert line["records"].split() == [
        f"records/robust/nap/clean.jsonl#plain.shapes.test.seed{seed}" for seed in (1, 2)
    ]
