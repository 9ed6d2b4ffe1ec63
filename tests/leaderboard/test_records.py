import pytest

from bench.errors import UserError
from bench.leaderboard.collect import write_cells
from bench.leaderboard.records import committed_records, evaluated_records


def committed(house) -> dict[str, str]:
    return {
        path.relative_to(house.paths.records).as_posix(): path.read_text() for path in house.paths.records.rglob("*.*")
    }


def test_collecting_commits_every_record_whole(house):
    house.fill()
    write_cells(house.suite, house.paths)
    records = evaluated_records(house.suite, house.paths)
    assert committed_records(house.suite, house.paths) == records
    assert len(records) == 2 * 2 * 3 + 2 * 2 * 2
    assert sorted(committed(house))[:2] == ["backdoor/none/clean.jsonl", "backdoor/none/trigger.jsonl"]


def test_git_alone_gives_the_same_cells(house):
    house.fill()
    house.put("robust", "nap", "pgd", state="diverged", reason="loss")
    house.put("robust", "nap", "autoattack", "1").unlink()
    house.collect()
    before = (house.paths.boards / "cells.csv").read_bytes()
    write_cells(house.suite, house.paths, committed=True)
    assert (house.paths.boards / "cells.csv").read_bytes() == before


def test_a_line_changes_only_with_the_result(house):
    house.fill("1000")
    write_cells(house.suite, house.paths)
    before = committed(house)
    path = house.put("robust", "nap", "pgd", "1000", commit="def")
    path.write_text(path.read_text().replace('"wall_s": 1.5', '"wall_s": 9'))
    write_cells(house.suite, house.paths)
    assert committed(house) == before
    house.put("robust", "nap", "pgd", "1100", commit="def")
    write_cells(house.suite, house.paths)
    after = committed(house)
    assert [name for name in after if after[name] != before[name]] == ["robust/nap/pgd.jsonl"]
    assert '"commit":"def"' in after["robust/nap/pgd.jsonl"]


def test_what_left_the_suite_leaves_git(house):
    house.fill()
    write_cells(house.suite, house.paths)
    del house.content["tracks"]["robust"]["defenses"]["nap"]
    write_cells(house.suite, house.paths)
    assert not [name for name in committed(house) if "nap" in name]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-9], r"line 2 is damaged .*restore the file from git"),
        (lambda text: text.replace('"hits":1', '"hit":1', 1), r"line 1 is damaged \(hit: .*restore"),
        (lambda text: text.replace('"defense":"nap"', '"defense":"fap"', 1), "holds the record of fap under pgd"),
        (lambda text: text.replace('"limit":null', '"limit":3', 1), "was made with --limit 3"),
    ],
)
def test_a_damaged_file_is_named(house, damage, message):
    house.fill()
    write_cells(house.suite, house.paths)
    path = house.paths.records / "robust" / "nap" / "pgd.jsonl"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=message) as raised:
        write_cells(house.suite, house.paths, committed=True)
    assert str(path) in str(raised.value)
