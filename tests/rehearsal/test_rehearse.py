"""A rehearsal of a cut of a paper's suite: ViT-B/32 with random weights, from made-up images to tables."""

import shutil
from pathlib import Path

import pytest
import yaml

from bench.config import Suite, load_suite
from bench.errors import UserError
from bench.leaderboard.records import evaluated_records
from bench.leaderboard.verify import read_cells
from bench.paths import paths_for
from bench.rehearsal.run import parts_to_run, rehearse
from bench.rehearsal.shrink import ARCHITECTURE, shrink

ROOT = Path(__file__).parents[2]
PAPERS = ("rvpt", "nap_tuning", "cba_fapt", "r_adapt", "cleansight")
LIMIT = 4


def suite_of(paper: str) -> Suite:
    return load_suite(ROOT / "leaderboards" / paper / "benchmark.yaml")


@pytest.mark.parametrize("paper", PAPERS)
def test_each_file_and_each_attack_that_exists_is_run_once_or_more(paper: str) -> None:
    small = shrink(suite_of(paper), LIMIT)
    absent = {name for names in small.planned.values() for name in names}
    parts = list(parts_to_run(small))
    tracks = [
        (name, track) for name, track in small.tracks.items() if not track.checkpoints[0].startswith(("llava", "qwen"))
    ]
    methods = {track.method(name) for _, track in tracks for name in track.defenses}
    if paper == "cleansight":
        assert parts == []
        return
    assert {small.tracks[part.track].method(part.defense) for part in parts} == {
        method for method in methods if not absent & set(method.split("+"))
    }
    attacks = {small.method_of(attack) for _, track in tracks for attack in track.attacks}
    assert {small.method_of(attack) for part in parts for attack in part.attacks} == attacks
    for _, track in tracks:
        for name in track.checkpoints:
            assert small.checkpoints[name].base == {"architecture": ARCHITECTURE, "weights": "random"}


def test_a_cut_of_a_suite_runs_from_images_to_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((ROOT / "leaderboards" / "rvpt" / "benchmark.yaml").read_text())
    track = content["tracks"]["imagenet"]
    track["defenses"] = {name: track["defenses"][name] for name in ("none", "rvpt")}
    content["attacks"]["pgd"] = {"threat_model": "white_box", "options": {"eps": 4, "steps": 100}}
    track["attacks"].append("pgd")
    content |= {"tracks": {"imagenet": track}, "analyses": {}}
    table = content["tables"]["table_1"] | {"tracks": ["imagenet"], "only": {"metric": ["ASR", "CA"]}}
    content["tables"] = {"table_1": table}
    path = Path("leaderboards") / "rvpt" / "benchmark.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(content))
    shutil.copytree(ROOT / "leaderboards" / "rvpt" / "published", path.parent / "published")

    records = rehearse(path, LIMIT, Path("scratch"))

    assert {record.state for record in records} == {"done"}
    assert {record.identity.cell.limit for record in records} == {LIMIT}
    assert any(record.cost and record.cost.backwards for record in records)
    paths = paths_for(path).below(Path("scratch"))
    cells = read_cells(paths.boards / "cells.csv")
    assert len(cells[cells["state"] == "done"]) == len(records)
    assert "A rehearsal with random weights and 4 images per cell." in (paths.boards / "table_1.md").read_text()
    assert not (tmp_path / "models").exists()
    with pytest.raises(UserError, match="was made with --limit 4, which no table may show"):
        evaluated_records(load_suite(path), paths)
