import math

import pytest

from bench.errors import UserError
from bench.leaderboard.verify import read_cells
from bench.report.boards import Board, Line, boards
from tests.leaderboard.conftest import House
from tests.report.conftest import collected


def board(house: House, name: str = "nap_1") -> Board:
    made = boards(read_cells(collected(house).paths.boards / "cells.csv"), house.suite, house.paths)
    return next(one for one in made if one.name == name)


def line(house: House, name: str = "nap_1", **labels: str) -> Line:
    (found,) = [
        one for one in board(house, name).lines if all(one.labels[key] == value for key, value in labels.items())
    ]
    return found


def test_a_board_has_a_line_for_every_cell_of_its_table(house) -> None:
    assert len(board(house, "rvpt_1").lines) == 2 * 2 * 2
    # Clean, pgd, autoattack and the worst case, for two defenses on two datasets.
    assert len(board(house).lines) == 4 * 2 * 2


def test_ids_are_written_as_in_the_table(house) -> None:
    found = line(house, defense="nap", dataset="Shapes", attack="PGD-100")
    assert found.labels["threat_model"] == "white box"
    assert found.cell.attack == "pgd"
    assert line(house, defense="CLIP", dataset="digits", attack="Worst case").cell.attack == "worst"


def test_what_all_cells_share_is_no_column(house) -> None:
    made = board(house, "rvpt_1")
    assert [column.name for column in made.columns] == ["defense", "checkpoint", "attack", "metric"]
    told = {column.name: column.shared for column in made.ids if column.shared}
    assert told == {"dataset": "shapes", "threat_model": "none", "split": "test", "track": "backdoor"}


def test_the_defense_is_a_column_even_if_there_is_only_one(house) -> None:
    house.content["tables"]["rvpt_1"]["only"] = {"defense": ["none"]}
    assert board(house, "rvpt_1").columns[0].name == "defense"


def test_seeds_share_a_line(house) -> None:
    house.content["protocol"]["seeds"] = [1, 2]
    for seed, hits in ((1, "1000"), (2, "1110")):
        house.put("robust", "nap", "pgd", hits, seed=seed)
    found = line(house, defense="nap", dataset="Shapes", attack="PGD-100")
    assert [cell.seed for cell in found.cells] == [1, 2]
    assert found.entry.mean == 50
    assert found.entry.deviation == pytest.approx(25 * math.sqrt(2))


def test_the_worst_known_is_the_lowest_under_any_white_box_attack(house) -> None:
    house.put("robust", "nap", "pgd", "1100")
    house.put("robust", "nap", "autoattack", "0111")
    # Only the second image survives both.
    for attack, measured in (("PGD-100", 50), ("autoattack", 75), ("Worst case", 25)):
        found = line(house, defense="nap", dataset="Shapes", attack=attack)
        assert (found.entry.mean, found.known.worst) == (measured, 25)
    assert line(house, defense="nap", dataset="Shapes", attack="clean").known.worst is None


def test_a_weaker_threat_model_does_not_make_the_worst_known(house) -> None:
    house.content["tracks"]["robust"]["attacks"] = ["clean", "pgd", "replay"]
    for dataset in ("shapes", "digits"):
        for defense in ("none", "nap"):
            house.put("robust", defense, "replay", "0000", dataset=dataset)
    assert line(house, defense="nap", dataset="Shapes", attack="PGD-100").known.worst == 25


def long_csv(house: House, *lines: str) -> None:
    header = "track,checkpoint,dataset,split,metric,attack,defense,state,published,worst_known"
    (house.paths.boards / "nap_1.long.csv").write_text("\n".join([header, *lines]) + "\n")


def test_published_and_worst_known_values_are_joined(house) -> None:
    long_csv(
        house, "robust,plain,shapes,test,RA,pgd,nap,done,45.5,12.5", "robust,plain,shapes,test,RA,autoattack,nap,done,,"
    )
    found = line(house, defense="nap", dataset="Shapes", attack="PGD-100")
    assert found.known == (45.5, 12.5)
    assert found.gap == 25 - 45.5
    other = line(house, defense="nap", dataset="Shapes", attack="autoattack")
    assert other.known == (None, 25)
    assert other.gap is None
    assert board(house).has_published
    assert not board(house, "rvpt_1").has_published


def test_a_cell_without_a_number_has_no_gap(house) -> None:
    long_csv(house, "robust,plain,shapes,test,RA,pgd,nap,done,45.5,12.5")
    house.put("robust", "nap", "pgd", state="diverged", reason="the loss was NaN")
    found = line(house, defense="nap", dataset="Shapes", attack="PGD-100")
    assert (found.entry.state, found.known.published, found.gap) == ("diverged", 45.5, None)


def test_a_long_table_without_the_ids_is_refused(house) -> None:
    (house.paths.boards / "nap_1.long.csv").write_text("defense,published\nnap,3\n")
    with pytest.raises(UserError, match=r"nap_1\.long\.csv lacks the columns track"):
        board(house)


def test_a_damaged_number_in_a_long_table_is_named(house) -> None:
    long_csv(house, "robust,plain,shapes,test,RA,pgd,nap,done,x4,")
    with pytest.raises(UserError, match=r"nap_1\.long\.csv: could not convert string to float: 'x4'"):
        board(house)


def test_a_control_that_survives_warns_above_the_board(house) -> None:
    house.put("robust", "none", "pgd", "1110")
    (warning,) = [text for text in board(house).warnings if "PGD-100" in text]
    assert "the undefended control keeps more than 5 %" in warning
