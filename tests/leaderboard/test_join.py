"""Published numbers beside measured ones, on a suite whose ids are those of a small paper."""

import csv

import pytest

from bench.errors import UserError
from bench.leaderboard.verify import read_cells
from tests.leaderboard.published import HEADER

LINES = """\
table_1,PGD / CLIP,Shapes,ViT-B-32,clean,shapes,none,pgd,8,RA,,1.5,
table_1,PGD / CLIP,Digits,ViT-B-32,clean,digits,none,pgd,8,RA,,0.5,
table_1,PGD / CLIP,Average,ViT-B-32,clean,average,none,pgd,8,RA,,1.0,
table_1,PGD / NAP,Shapes,ViT-B-32,clean,shapes,nap,pgd,8,RA,,60.12,
table_1,PGD / NAP,Digits,ViT-B-32,clean,digits,nap,pgd,8,RA,,,the scan is black
table_1,PGD / NAP,Average,ViT-B-32,clean,average,nap,pgd,8,RA,,61.0,
table_1,PGD / NAP at eps 4,Shapes,ViT-B-32,clean,shapes,nap,pgd,4,RA,,70,
table_1,PGD / NAP of one shot,Shapes,ViT-B-32,clean,shapes,nap,pgd,8,RA,shots=1,33.3,
table_1,CWA / CLIP,Shapes,ViT-B-32,clean,shapes,none,autoattack,,RA,,2.5,
table_1,Clean / FAP,Shapes,ViT-B-32,clean,shapes,fap,clean,,CA,,99,
table_1,Another backbone,Shapes,ViT-B-16,clean,shapes,none,pgd,8,RA,,9.9,
"""


@pytest.fixture
def paper(house):
    """The house as a paper's suite: an open_clip model, and a folder of published numbers beside it."""
    house.content["checkpoints"]["plain"]["base"] = {"architecture": "ViT-B-32-quickgelu", "weights": "openai"}
    house.content["tables"]["nap_1"] |= {"published": "small/table_1", "decimals": 1}
    folder = house.paths.boards.parent / "small" / "published"
    folder.mkdir(parents=True)
    (folder / "table_1.csv").write_text(f"{HEADER}\n{LINES}")
    house.fill("0000")
    house.put("robust", "nap", "pgd", "1110")
    return house


def long(house, name="nap_1"):
    """The lines of the long CSV, by row and column."""
    house.table(name)
    with (house.paths.boards / f"{name}.long.csv").open(newline="") as file:
        return {(line["row"], line["column"]): line for line in csv.DictReader(file)}


def test_a_position_has_all_that_is_known_of_it(paper):
    line = long(paper)["PGD-100 / nap", "Shapes"]
    # Autoattack leaves none of the four images, so that is what is worst known; both defenses are equal there.
    assert line == {
        **{"row": "PGD-100 / nap", "column": "Shapes", "track": "robust", "defense": "nap", "checkpoint": "plain"},
        **{"dataset": "shapes", "split": "test", "attack": "pgd", "threat_model": "white_box", "eps": "8"},
        **{"metric": "RA", "state": "done", "measured": "75.0000", "deviation": "", "low": "30.0642"},
        **{"high": "95.4413", "published": "60.12", "gap": "14.8800", "worst_known": "0.0000", "rank": "1"},
        **{"flags": "", "n": "4", "seeds": "1", "records": "records/robust/nap/pgd.jsonl#plain.shapes.test.seed1"},
    }


def test_what_the_paper_does_not_give_is_not_compared(paper):
    lines = long(paper)
    assert lines["autoattack / CLIP", "Shapes"]["published"] == "2.5"  # the paper does not say at which eps
    assert lines["autoattack / CLIP", "digits"]["published"] == ""


def test_a_number_that_cannot_be_read_is_no_number(paper):
    line = long(paper)["PGD-100 / nap", "digits"]
    assert (line["measured"], line["published"], line["gap"]) == ("0.0000", "", "")


def test_a_missing_cell_has_its_state_and_the_published_number(paper):
    paper.put("robust", "nap", "pgd", "1").unlink()
    line = long(paper)["PGD-100 / nap", "Shapes"]
    assert (line["state"], line["measured"], line["published"], line["gap"], line["rank"]) == (
        *("missing", "", "60.12", "", ""),
    )
    assert line["worst_known"] == ""


def test_an_average_stands_beside_one_over_the_same_datasets_only(paper):
    lines = long(paper)
    assert (lines["PGD-100 / CLIP", "Avg"]["published"], lines["PGD-100 / CLIP", "Avg"]["gap"]) == ("1.0", "-1.0000")
    assert lines["PGD-100 / CLIP", "Avg"]["dataset"] == "average"
    # Of NAP the paper's number on digits cannot be read, so nobody knows what its average is over.
    assert lines["PGD-100 / nap", "Avg"]["published"] == ""
    paper.content["tables"]["nap_1"]["only"] = {"dataset": ["shapes"]}
    assert long(paper)["PGD-100 / CLIP", "Avg"]["published"] == ""


def test_numbers_that_no_cell_stands_for_are_listed_too(paper):
    lines = long(paper)
    assert {key: line["published"] for key, line in lines.items() if line["state"] == "-"} == {
        ("PGD / NAP", "Average"): "61.0",
        ("PGD / NAP at eps 4", "Shapes"): "70",
        ("PGD / NAP of one shot", "Shapes"): "33.3",
        ("Clean / FAP", "Shapes"): "99",
        ("Another backbone", "Shapes"): "9.9",
    }


def test_settings_come_from_the_tuning_or_from_the_table(paper):
    paper.content["tracks"]["robust"]["defenses"]["nap"] = {"tuning": {"shots": 1}}
    assert long(paper)["PGD-100 / nap", "Shapes"]["published"] == "33.3"
    paper.content["tracks"]["robust"]["defenses"]["nap"] = {}
    paper.content["tables"]["nap_1"]["joined"] = {"nap": {"setting": "shots=1"}}
    assert long(paper)["PGD-100 / nap", "Shapes"]["published"] == "33.3"


def test_ids_may_be_translated(paper):
    paper.content["tables"]["nap_1"]["joined"] = {"nap": {"defense": "fap"}, "pgd": {"eps": "4"}}
    lines = long(paper)
    assert lines["clean / nap", "Shapes"]["published"] == "99"
    assert lines["PGD-100 / CLIP", "Shapes"]["published"] == ""


def test_the_trigger_stands_for_the_checkpoint(paper):
    checkpoint = {"base": {"architecture": "ViT-B-32", "weights": "openai"}, "trigger": "badnet", "target": "x"}
    paper.content["checkpoints"] |= {"badnet": checkpoint, "blended": checkpoint | {"trigger": "blended"}}
    paper.content["tables"]["rvpt_1"]["published"] = "small/table_2"
    path = paper.paths.boards.parent / "small" / "published" / "table_2.csv"
    path.write_text(f"{HEADER}\ntable_2,No,B,ViT-B-32,badnet,shapes,none,trigger,,ASR,,87.49,\n")
    lines = long(paper, "rvpt_1")
    assert (lines["none", "BadNet ASR"]["published"], lines["none", "BadNet ASR"]["gap"]) == ("87.49", "-87.4900")
    assert lines["none", "blended ASR"]["published"] == ""


def test_people_see_the_published_number_and_the_gap(paper):
    _, text = paper.table("nap_1")
    assert "75.0 [30.1, 95.4]; paper 60.12, gap +14.9" in text
    assert "the number that small/table_1 prints, and measured minus published in points; 5 of 24 positions" in text
    tex = (paper.paths.boards / "nap_1.tex").read_text()
    assert "75.0 [30.1, 95.4]; paper 60.12, gap +14.9" in tex


def test_the_layout_for_programs_holds_measured_values_only(paper):
    lines, _ = paper.table("nap_1")
    assert lines[4] == "PGD-100,nap,75.0,0.0,37.5,"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"published": "small/table_9"}, r"tables\.nap_1\.published: unknown table 'table_9'; did you mean 'table_1'"),
        ({"published": "other/table_1"}, "holds no CSV of published values"),
        ({"joined": {"napp": {}}}, r"tables\.nap_1\.joined: unknown id 'napp'; did you mean 'nap'"),
        (
            {"joined": {"none": {"defense": "x"}, "nap": {"defense": "x"}}},
            "no number of small/table_1 stands for a cell",
        ),
    ],
)
def test_a_wrong_description_is_named(paper, changes, message):
    paper.content["tables"]["nap_1"] |= changes
    with pytest.raises(UserError, match=message):
        paper.table("nap_1")


def test_the_mini_model_never_stands_beside_a_paper(paper):
    paper.content["checkpoints"]["plain"]["base"] = {"architecture": "mini", "weights": "shipped"}
    with pytest.raises(UserError, match=r"tables\.nap_1\.published: checkpoint 'plain' is a mini model"):
        paper.table("nap_1")


def test_a_cell_that_several_numbers_stand_for_is_refused(paper):
    path = paper.paths.boards.parent / "small" / "published" / "table_1.csv"
    path.write_text(path.read_text() + "table_1,Again,Shapes,ViT-B-32,clean,shapes,none,pgd,8,RA,,1.6,\n")
    with pytest.raises(UserError, match=r"several published numbers: PGD / CLIP, Shapes; Again, Shapes"):
        paper.table("nap_1")


def test_a_submitted_defense_has_no_published_number(paper):
    paper.collect()
    path = paper.paths.boards / "cells.csv"
    path.write_text(path.read_text().replace("robust,nap,", "robust,stranger,"))
    assert set(read_cells(path)["defense"]) == {"none", "stranger", "rvpt"}
    from bench.leaderboard.table import write_table

    write_table(paper.suite, "nap_1", paper.paths)
    assert "stranger" in (paper.paths.boards / "nap_1.long.csv").read_text()
