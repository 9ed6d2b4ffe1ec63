"""What a suite names before it exists: shown, and in nobody's way; real as soon as its file is there."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import planned
from bench.config import Suite, load_suite
from bench.datasets import shapes
from bench.datasets.store import build
from bench.defenses.fitting import fit_track
from bench.evaluation.adversary import write_attacks
from bench.evaluation.run import evaluate
from bench.leaderboard.collect import write_cells
from bench.leaderboard.table import write_table
from bench.leaderboard.verify import read_cells
from bench.overview.cells import cell_states
from bench.overview.check import check_suite
from bench.paths import Paths, paths_for
from bench.planned import NOTE, Absent

CONTENT: dict[str, Any] = {
    "protocol": {"version": 1, "batch_size": 8, "seeds": [1], "shots": 1},
    "datasets": {"shapes": {"train_per_class": 2, "val_per_class": 1, "test_per_class": 1}},
    "planned": {"defenses": ["future"], "attacks": ["future_attack"], "architectures": ["giant"]},
    "checkpoints": {
        "clean": {"base": {"architecture": "mini", "weights": "random"}, "trigger": "none"},
        "large": {"base": {"architecture": "giant", "weights": "hub"}, "trigger": "none"},
    },
    "attacks": {
        "clean": {"threat_model": "none"},
        "later": {"threat_model": "white_box", "method": "future_attack", "options": {"eps": 4}},
    },
    "tracks": {
        "main": {
            "checkpoints": ["clean", "large"],
            "datasets": ["shapes"],
            "attacks": ["clean", "later"],
            "defenses": {"none": {}, "future": {"options": {"strength": 3}}, "both": {"method": "linear_probe+future"}},
        }
    },
    "tables": {
        "one": {"title": "One", "tracks": ["main"], "rows": ["checkpoint", "defense"], "columns": ["attack"]},
    },
}


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.chdir(tmp_path)
    return paths_for()


@pytest.fixture
def suite(paths: Paths) -> Suite:
    paths.suite.write_text(yaml.safe_dump(CONTENT))
    return load_suite(paths.suite)


def test_the_whole_path_runs_around_what_is_planned(suite: Suite, paths: Paths) -> None:
    from bench.backdoors.make import make_checkpoint

    assert check_suite(suite, paths.suite) == []
    build("shapes", shapes.Options(**suite.datasets["shapes"]), shapes.fetch, paths.data)
    make_checkpoint("clean", suite.checkpoints["clean"], paths)
    write_attacks(suite, paths)
    plan = suite.tracks["main"]
    fit_track(suite, "main", list(plan.defenses), plan.checkpoints, paths)
    records = [
        record for name in plan.defenses for at in plan.attacks for record in evaluate(suite, "main", name, at, paths)
    ]
    assert [(record.identity.cell.name, record.state) for record in records] == [("clean.shapes.test.seed1", "done")]
    assert (paths.evaluated("main", "future", "clean") / NOTE).read_text() == "not implemented: defenses/future\n"
    write_cells(suite, paths)
    states = read_cells(paths.boards / "cells.csv").set_index(["checkpoint", "defense", "attack"])["state"]
    assert states.pop(("clean", "none", "clean")) == "done"
    assert set(states) == {"not_implemented"}
    assert len(states) == 11
    assert [state.state for state in cell_states(suite, paths)].count("not_implemented") == 11
    write_table(suite, "one", paths)
    assert "large,future,not_implemented,not_implemented," in (paths.boards / "one.csv").read_text()


def test_it_is_real_as_soon_as_its_file_is_there(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Absent(suite).defense("main", "both") == ["defenses/future"]
    monkeypatch.setattr(planned, "item_ids", lambda room: {"defenses": ["future"], "attacks": []}[room])
    absent = Absent(suite)
    assert absent.defense("main", "both") == []
    assert absent.items == {("attacks", "future_attack"), ("architectures", "giant")}


def test_a_slip_in_what_is_planned_is_told(paths: Paths) -> None:
    content = CONTENT | {"planned": CONTENT["planned"] | {"defenses": ["futur"]}}
    paths.suite.write_text(yaml.safe_dump(content))
    faults = check_suite(load_suite(paths.suite), paths.suite)
    assert any("unknown defense 'future'" in fault for fault in faults)
    assert any("planned.defenses: unknown id that the suite names 'futur'; did you mean 'future'?" in f for f in faults)
