"""Tables as their papers print them, and ranks."""

from bench.report.layout import Layout, Tile, layout
from tests.leaderboard.conftest import House
from tests.leaderboard.published import HEADER


def made(house: House, name: str = "nap_1") -> Layout:
    return layout(house.suite, name, house.collect(), house.paths)


def tile(found: Layout, group: str, row: str, column: str) -> Tile:
    (rows,) = [dict(one.rows) for one in found.groups if one.label == group]
    return rows[row][found.columns.index(column)]


def test_rows_are_grouped_and_columns_have_the_papers_headings(house: House) -> None:
    found = made(house)
    assert [group.label for group in found.groups] == ["clean", "PGD-100", "autoattack", "Worst case"]
    assert [[row for row, _ in group.rows] for group in found.groups] == [["CLIP", "nap"]] * 4
    assert (found.corner, found.spans, found.columns) == ("defense", [], ["Shapes", "digits", "Avg"])


def test_columns_of_two_ids_share_a_heading(house: House) -> None:
    found = made(house, "rvpt_1")
    assert found.spans == [("BadNet", 2), ("blended", 2)]
    assert found.columns == ["CA", "ASR", "CA", "ASR"]
    assert [group.label for group in found.groups] == [""]


def test_less_attack_success_is_better_and_less_accuracy_is_worse(house: House) -> None:
    house.put("backdoor", "rvpt", "trigger", "1000", checkpoint="badnet")
    house.put("backdoor", "rvpt", "clean", "1000", checkpoint="badnet")
    ((_, rows),) = made(house, "rvpt_1").groups
    accuracy, success, *_ = dict(rows)["rvpt"]
    assert (success.text, success.good) == ("25.00", 0.75)
    assert (accuracy.text, accuracy.good) == ("25.00", 0.25)


def test_the_colour_is_that_of_the_worst_known(house: House) -> None:
    for defense, hits in (("none", "0000"), ("nap", "1110")):
        house.put("robust", defense, "pgd", hits)
    house.put("robust", "none", "autoattack", "0000")
    house.put("robust", "nap", "autoattack", "1000")
    shown = tile(made(house), "PGD-100", "nap", "Shapes")
    assert (shown.text, shown.good) == ("75.0", 0.25)


def test_a_number_tells_its_interval_and_its_flags(house: House) -> None:
    house.put("robust", "none", "pgd", "0000")
    house.put("robust", "nap", "pgd", "1000", flags=("zero_gradient",))
    assert tile(made(house), "PGD-100", "nap", "Shapes").told == "25.0 [4.6, 69.9]; zero gradient"


def test_where_the_control_survives_nothing_is_credited(house: House) -> None:
    house.put("robust", "none", "pgd", "1110")
    house.put("robust", "none", "autoattack", "0000")
    found = made(house)
    assert tile(found, "PGD-100", "nap", "Shapes").good is None
    assert tile(found, "autoattack", "nap", "Shapes").good == 0.25


def test_a_state_stands_in_for_a_number(house: House) -> None:
    house.put("robust", "nap", "pgd", state="attack_failed", reason="too weak")
    found = tile(made(house), "PGD-100", "nap", "Shapes")
    assert (found.text, found.good) == ("attack failed", None)


def test_defenses_are_ranked_at_their_worst_and_without_a_number_they_have_no_rank(house: House) -> None:
    for attack in ("pgd", "autoattack"):
        for dataset in ("shapes", "digits"):
            house.put("robust", "none", attack, "0000", dataset=dataset)
            house.put("robust", "nap", attack, "1100", dataset=dataset)
    house.put("robust", "nap", "autoattack", "1000")
    ((heading, ranks),) = made(house).ranks.items()
    assert heading == "RA"
    assert [(rank.rank, rank.defense, rank.known) for rank in ranks] == [("1", "nap", 37.5), ("2", "CLIP", 0)]
    house.put("robust", "nap", "pgd", state="failed", reason="memory")
    ((_, ranks),) = made(house).ranks.items()
    assert [(rank.rank, rank.defense, rank.known) for rank in ranks] == [("1", "CLIP", 0), ("", "nap", None)]


def test_published_numbers_stand_below(house: House) -> None:
    house.content["checkpoints"]["plain"]["base"] = {"architecture": "ViT-B-32-quickgelu", "weights": "openai"}
    house.content["tables"]["nap_1"] |= {"published": "small/table_1"}
    folder = house.paths.boards.parent / "small" / "published"
    folder.mkdir(parents=True)
    line = "table_1,PGD / NAP,Shapes,ViT-B-32,clean,shapes,nap,pgd,8,RA,,60.12,"
    (folder / "table_1.csv").write_text(f"{HEADER}\n{line}\n")
    house.put("robust", "none", "pgd", "0000")
    found = tile(made(house), "PGD-100", "nap", "Shapes")
    assert (found.text, found.paper) == ("25.0", "60.12")
    assert found.told == "25.0 [4.6, 69.9]; paper 60.12, gap -35.1"
