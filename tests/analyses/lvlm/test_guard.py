import pytest
from sklearn.metrics import roc_auc_score

from bench.analyses import guard
from bench.analyses.contract import Source
from tests.analyses.conftest import paths_below
from tests.analyses.lvlm.conftest import record

pytestmark = pytest.mark.xdist_group("large")
CELLS = {"track": "questions", "dataset": "world_questions"}
OPTIONS = guard.Options.model_validate({"cells": CELLS, "names": {"badnet": "BadNet", "cleansight": "CleanSight"}})


def test_each_number_is_the_records(source: Source) -> None:
    frame = guard.measure(source, OPTIONS).set_index("defense")
    assert frame.index.tolist() == ["none", "blur", "cleansight"]
    assert frame.loc[["none", "blur"], ["auroc", "alarms_clean", "alarms_triggered"]].isna().all(axis=None)
    for defense, line in frame.iterrows():
        clean, triggered = (record(source, str(defense), attack) for attack in ("clean", "trigger"))
        assert clean.cost is not None
        assert (line["cu"], line["asr"]) == (clean.value, triggered.value)
        assert line["seconds"] == pytest.approx(clean.cost.wall_s / clean.n)
    clean, triggered = (record(source, "cleansight", attack) for attack in ("clean", "trigger"))
    line = frame.loc["cleansight"]
    assert (line["alarms_clean"], line["alarms_triggered"]) == (clean.variants["alarms"], triggered.variants["alarms"])
    assert clean.outcome is not None
    assert triggered.outcome is not None
    both = [*clean.outcome.distances, *triggered.outcome.distances]
    assert line["auroc"] == pytest.approx(100 * roc_auc_score([0] * clean.n + [1] * triggered.n, both))


def test_the_table_has_a_line_for_each_defense(source: Source) -> None:
    lines = guard.table(guard.measure(source, OPTIONS), OPTIONS).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:5]]
    assert [row[:2] for row in cells] == [["BadNet", "none"], ["BadNet", "blur"], ["BadNet", "CleanSight"]]
    assert cells[0][2:5] == ["-"] * 3
    assert "-" not in cells[2]
    assert "Asked: 28 clean and 28 triggered questions" in lines[-1]


def test_what_has_no_record_is_missing(source: Source, tmp_path) -> None:
    empty = source._replace(paths=paths_below(tmp_path))
    frame = guard.measure(empty, OPTIONS)
    assert frame["state"].tolist() == ["missing"] * 3
    assert "| missing |" in guard.table(frame, OPTIONS)
