"""What a submission does to the boards, and that these come out of git alone."""

import csv
import shutil

import pytest
import yaml

from bench.errors import UserError
from bench.leaderboard.collect import write_cells
from bench.leaderboard.submissions.add import add, rebuild
from tests.leaderboard.conftest import House
from tests.leaderboard.submissions.conftest import Desk


def boards(house: House) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(house.paths.boards.glob("*.*"))}


def take(desk: Desk, kind: str) -> None:
    add(getattr(desk, kind)(), desk.house.suite, desk.house.paths)


def standing(desk: Desk, row: str) -> dict[str, str]:
    """The line of the long CSV for a row on shapes."""
    with (desk.house.paths.boards / "nap_1.long.csv").open(newline="") as file:
        return next(line for line in csv.DictReader(file) if (line["row"], line["column"]) == (row, "Shapes"))


def test_the_boards_come_out_of_git_alone(desk):
    for kind in ("defense", "result", "evaluation"):
        take(desk, kind)
    write_cells(desk.house.suite, desk.house.paths)
    before = boards(desk.house)
    for folder in (desk.house.paths.results, desk.house.paths.data / "shapes", desk.house.paths.data / "manifests"):
        shutil.rmtree(folder)
    for path in desk.house.paths.boards.glob("*.*"):
        path.unlink()
    rebuild(desk.house.suite, desk.house.paths)
    assert boards(desk.house) == before
    assert set(before) == {"cells.csv", "nap_1.csv", "nap_1.long.csv", "nap_1.md", "nap_1.tex"}


def test_a_new_defense_gets_its_rows_and_its_rank(desk):
    take(desk, "defense")
    line = desk.cells()["fresh", "shapes", "pgd"]
    assert (line.value, line.flags, line.submission) == (62.5, "not_rechecked", "fresh_by_stranger")
    assert desk.cells()["fresh", "digits", "worst"].value == 62.5
    found = standing(desk, "PGD-100 / fresh")
    assert (found["rank"], found["records"]) == (
        "1",
        "submissions/fresh_by_stranger/records.jsonl#plain.shapes.test.seed1",
    )
    assert standing(desk, "PGD-100 / nap")["rank"] == "2"


def test_a_result_fills_the_row(desk):
    write_cells(desk.house.suite, desk.house.paths)
    assert desk.cells()["nap", "digits", "autoattack"].state == "missing"
    take(desk, "result")
    line = desk.cells()["nap", "digits", "autoattack"]
    assert (line.state, line.value, line.submission) == ("done", 37.5, "nap_digits")
    assert desk.cells()["nap", "digits", "worst"].reason == ""


def test_a_stronger_evaluation_lowers_the_worst_case_and_ranks_anew(desk):
    for attack in ("pgd", "autoattack"):
        for dataset in ("shapes", "digits"):
            desk.house.put("robust", "none", attack, "0" * 8, dataset=dataset, hashed=desk.hashed)
    desk.house.content["tracks"]["robust"]["defenses"]["fap"] = {}
    for attack, dataset in (("clean", "shapes"), ("pgd", "shapes"), ("autoattack", "shapes")):
        hits = "1" * 8 if attack == "clean" else "10101100"
        desk.house.put("robust", "fap", attack, hits, dataset=dataset, hashed=desk.hashed | {"artefact": "fap"})
    desk.house.put("robust", "nap", "pgd", "11111000", hashed=desk.hashed)
    desk.house.put("robust", "nap", "autoattack", "11111000", hashed=desk.hashed)
    desk.house.content["tables"]["nap_1"]["only"] = {"dataset": ["shapes"]}
    write_cells(desk.house.suite, desk.house.paths)
    rebuild(desk.house.suite, desk.house.paths)

    def seen() -> dict[str, tuple[str, str]]:
        lines = {name: standing(desk, f"PGD-100 / {name}") for name in ("nap", "fap", "CLIP")}
        return {name: (line["worst_known"], line["rank"]) for name, line in lines.items()}

    assert seen() == {"nap": ("62.5000", "1"), "fap": ("50.0000", "2"), "CLIP": ("0.0000", "3")}
    layout = (desk.house.paths.boards / "nap_1.csv").read_text()
    take(desk, "evaluation")
    assert seen() == {"nap": ("25.0000", "2"), "fap": ("50.0000", "1"), "CLIP": ("0.0000", "3")}
    worst = desk.cells()["nap", "shapes", "worst"]
    assert (worst.value, worst.flags, worst.eps) == (25, "not_rechecked", 8)
    ranked = (desk.house.paths.boards / "nap_1.md").read_text().partition("## Ranking")[2]
    assert ranked.index("| fap ") < ranked.index("| nap ") < ranked.index("| CLIP ")
    # The paper's layout has no position for an attack that the paper does not know, but its worst case falls.
    after = (desk.house.paths.boards / "nap_1.csv").read_text()
    assert "stronger" not in after
    assert after == layout.replace("Worst case,nap,62.5,62.5,", "Worst case,nap,25.0,25.0,not_rechecked")


def test_a_replayed_attack_counts_in_the_worst_case_too(desk):
    folder = desk.evaluation()

    def grey(record):
        cell = record.identity.cell.model_copy(update={"threat_model": "grey_box"})
        return record.model_copy(update={"identity": record.identity.model_copy(update={"cell": cell})})

    desk.change(folder, grey)
    add(folder, desk.house.suite, desk.house.paths)
    worst = desk.cells()["nap", "shapes", "worst"]
    assert (worst.value, worst.threat_model) == (25, "white_box")


def test_what_a_maintainer_has_repeated_loses_its_flag(desk):
    folder = desk.put_in_place(desk.evaluation())
    desk.edit(folder, rechecked=True)
    rebuild(desk.house.suite, desk.house.paths)
    assert desk.cells()["nap", "shapes", "stronger"].flags == ""


def test_a_refused_submission_leaves_nothing(desk):
    folder = desk.result()
    desk.edit(folder, licence="", contact="")
    with pytest.raises(UserError, match=r"is refused:\n.*authors and contact.*\n.*licence"):
        add(folder, desk.house.suite, desk.house.paths)
    assert not desk.house.paths.submissions.exists()


def test_a_name_is_taken_once(desk):
    take(desk, "result")
    shutil.rmtree(desk.house.paths.data / "drawer")
    with pytest.raises(UserError, match=r"nap_digits is there already"):
        take(desk, "result")


def test_what_is_in_place_already_may_be_added(desk):
    add(desk.put_in_place(desk.result()), desk.house.suite, desk.house.paths)
    assert desk.cells()["nap", "digits", "autoattack"].value == 37.5


def test_a_second_evaluation_must_be_stronger_than_the_first(desk):
    take(desk, "evaluation")
    first = desk.house.paths.submissions / "nap_is_weaker"
    again = shutil.copytree(first, desk.house.paths.data / "drawer" / "again")
    path = again / "records.jsonl"
    path.write_text(path.read_text().replace('"stronger"', '"other"').replace('"wall_s":1.5', '"wall_s":2'))
    images = {name.replace("stronger", "other"): place for name, place in content(again)["images"].items()}
    desk.edit(again, attack="other", images=images)
    desk.pack(again)
    assert desk.check(again) == [
        "no image that resisted all attacks in the boards is fooled here, so nothing is lowered"
    ]


def content(folder):
    return yaml.safe_load((folder / "submission.yaml").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"track": "gone"}, "the suite has no track 'gone'; see: bench submit check"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_boards_are_not_made_from_a_damaged_submission(desk, changes, message):
    desk.edit(desk.put_in_place(desk.result()), **changes)
    with pytest.raises(UserError, match=message):
        write_cells(desk.house.suite, desk.house.paths)


def test_boards_are_not_made_from_a_place_that_the_track_lacks(desk):
    folder = desk.put_in_place(desk.result())
    path = folder / "records.jsonl"
    path.write_text(path.read_text().replace('"dataset":"digits"', '"dataset":"letters"'))
    with pytest.raises(UserError, match=r"the track has no plain\.letters\.test\.seed1"):
        write_cells(desk.house.suite, desk.house.paths)
