from bench.leaderboard.verify import read_cells
from bench.report.boards import boards
from bench.report.details import command, details, uncollected
from tests.leaderboard.conftest import House
from tests.report.conftest import collected


def told(house: House, defense: str = "nap", attack: str = "pgd") -> dict[str, str]:
    cells = read_cells(collected(house).paths.boards / "cells.csv")
    made = next(board for board in boards(cells, house.suite, house.paths) if board.name == "nap_1")
    line = next(one for one in made.lines if (one.cell.defense, one.cell.attack) == (defense, attack))
    return dict(details(line, house.suite, house.paths))


def test_a_cell_tells_its_count_its_record_and_its_machine(house) -> None:
    found = told(house)
    assert found["Measured"].startswith("1 of 4 images = 25.00 % [4.56, 69.94]")
    assert found["Record"] == str(house.paths.results / "robust" / "nap" / "pgd" / "plain.shapes.test.seed1.json")
    assert found["Computed"] == "1.5 s, 2 images/s on cpu, commit abc"
    assert found["Passes per image"] == "101.00 forward, 100.50 backward"


def test_settings_are_those_of_the_suite(house) -> None:
    house.content["attacks"]["pgd"]["options"] = {"eps": 8}
    house.content["attacks"]["pgd"]["images"] = 4
    assert told(house)["Attack settings"] == "images: 4, options: {eps: 8}"
    assert told(house)["Defense settings"] == "defaults"


def test_without_records_the_rest_is_told(house) -> None:
    made = told(house)
    cells = read_cells(house.paths.boards / "cells.csv")
    for path in house.paths.results.rglob("*.json"):
        path.unlink()
    line = next(
        one
        for board in boards(cells, house.suite, house.paths)
        for one in board.lines
        if (one.cell.defense, one.cell.attack) == ("nap", "pgd")
    )
    without = dict(details(line, house.suite, house.paths))
    assert made.pop("Computed")
    assert without == made


def test_a_damaged_record_is_said_to_be(house) -> None:
    cells = read_cells(house.paths.boards / "cells.csv")
    path = house.paths.evaluated("robust", "nap", "pgd") / "plain.shapes.test.seed1.json"
    path.write_text("{")
    line = next(
        one
        for board in boards(cells, house.suite, house.paths)
        for one in board.lines
        if (one.cell.defense, one.cell.attack) == ("nap", "pgd")
    )
    assert dict(details(line, house.suite, house.paths))["Computed"] == "this record is damaged"


def test_the_worst_case_says_what_it_is_derived_from(house) -> None:
    found = told(house, attack="worst")
    assert found["Derived from"] == "the records of each image under pgd, autoattack"
    assert "Record" not in found
    assert found["Run it again"] == f"bench collect --suite {house.paths.suite}"


def test_the_command_is_the_stage_of_the_pipeline(house) -> None:
    (house.paths.suite.parent / "dvc.yaml").write_text("stages: {evaluate_robust: {matrix: {defense: 0, attack: 0}}}")
    cell = next(read_cells(house.paths.boards / "cells.csv").query("attack == 'pgd'").itertuples())
    made = command(cell, house.paths)
    assert made == f"dvc repro {house.paths.suite.parent / 'dvc.yaml'}:evaluate_robust@none-pgd"


def test_cells_that_the_suite_asks_for_later_are_uncollected(house) -> None:
    cells = read_cells(house.paths.boards / "cells.csv")
    assert uncollected(cells, house.suite) == []
    house.content["tracks"]["backdoor"]["defenses"]["late"] = {}
    found = uncollected(cells, house.suite)
    assert {(track, cell.defense) for track, cell in found} == {("backdoor", "late")}
    assert len(found) == 2 * 2
