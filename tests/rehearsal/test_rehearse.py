"""Every paper's suite from made-up images to tables and figures, by a CLIP of twelve blocks as narrow as they can be.

``bench rehearse`` runs the same with random ViT-B/32; what is particular to its size is tested where it is used.
"""

import shutil
from pathlib import Path

import open_clip
import pandas as pd
import pytest

from bench.config import Suite, load_suite
from bench.errors import UserError
from bench.leaderboard.records import evaluated_records
from bench.leaderboard.verify import read_cells
from bench.lvlm.architecture import lvlm_architectures
from bench.lvlm.libraries import lacking
from bench.lvlm.room import is_lvlm_track
from bench.paths import paths_for
from bench.rehearsal import parts
from bench.rehearsal.parts import analyses_to_run, needs_of, parts_to_run
from bench.rehearsal.run import rehearse
from bench.rehearsal.shrink import shrink

ROOT = Path(__file__).parents[2]
PAPERS = ("rvpt", "nap_tuning", "cba_fapt", "r_adapt", "cleansight")
LIMIT, ARCHITECTURE = 4, "ViT-B-32-quickgelu"


@pytest.fixture(scope="module")
def narrow() -> str:
    """An architecture with the depth, the patches and the vocabulary of ViT-B/32, a twelfth as wide."""
    open_clip.add_model_config(Path(__file__).with_name("narrow.json"))
    return "narrow"


def suite_of(paper: str) -> Suite:
    return load_suite(ROOT / "leaderboards" / paper / "benchmark.yaml")


@pytest.mark.parametrize("paper", PAPERS)
def test_what_exists_is_run_once_or_more(paper: str) -> None:
    small = shrink(suite_of(paper), LIMIT, ARCHITECTURE)
    planned = {name for names in small.planned.values() for name in names}
    chosen = parts_to_run(small)
    real = {
        name
        for name, track in small.tracks.items()
        if any(
            not {small.checkpoints[one].base["architecture"], small.checkpoints[one].trigger} & planned
            for one in track.checkpoints
        )
        and not (is_lvlm_track(small, name) and lacking())
    }
    assert {part.track for part in chosen} == real
    tests = [(small.tracks[part.track], test) for part in chosen for test in part.tests]
    methods = {track.method(name) for track in (small.tracks[one] for one in real) for name in track.defenses}
    assert {track.method(test.defense) for track, test in tests} == {
        method for method in methods if not planned & set(method.split("+"))
    }
    attacks = {small.method_of(attack) for one in real for attack in small.tracks[one].attacks}
    assert {small.method_of(attack) for _, test in tests for attack in test.attacks} == attacks - planned
    planted = {name for one in real for name in small.tracks[one].checkpoints}
    triggers, shown = (
        {(small.checkpoints[name].trigger, small.checkpoints[name].train.get("recipe")) for name in names}
        for names in (planted, {name for _, test in tests for name in test.checkpoints})
    )
    assert shown == {one for one in triggers if one[0] not in planned}
    analyses = analyses_to_run(small)
    assert {small.analyses[name].method for name in analyses} == {spec.method for spec in small.analyses.values()}
    needs = [need for name in analyses for need in needs_of(small, name)]
    opened = {(need.track, need.checkpoint, need.defense) for need in needs if need.track}
    assert opened <= {
        (part.track, checkpoint, defense)
        for part in chosen
        for checkpoint, defenses in part.tuned.items()
        for defense in defenses
    }


@pytest.mark.parametrize("paper", PAPERS)
def test_every_model_is_random_and_every_clip_of_one_architecture(paper: str) -> None:
    suite = suite_of(paper)
    small = shrink(suite, LIMIT, ARCHITECTURE)
    planned = small.planned.get("architectures", ())
    for name, spec in small.checkpoints.items():
        own = suite.checkpoints[name].base["architecture"]
        if own not in planned:
            architecture = own if own in lvlm_architectures() else ARCHITECTURE
            assert spec.base == {"architecture": architecture, "weights": "random"}


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_a_suite_runs_from_images_to_tables_and_figures(
    paper: str, narrow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if paper == "cleansight":
        pytest.importorskip("transformers", reason="needs the packages of the group lvlm")
    monkeypatch.chdir(ROOT)
    path = Path("leaderboards") / paper / "benchmark.yaml"
    before = path.read_bytes()

    records = rehearse(path, LIMIT, tmp_path, narrow)

    assert path.read_bytes() == before
    assert {record.state for record in records} <= {"done", "not_applicable"}
    assert {record.identity.cell.limit for record in records} <= {LIMIT}
    # One image of each is right, whatever the random model says, and so every attack has something to do.
    assert all(record.cost and record.cost.forwards for record in records if record.metric == "RA")
    suite, paths = load_suite(path), paths_for(path).below(tmp_path)
    cells = read_cells(paths.boards / "cells.csv")
    assert (cells["state"] == "done").sum() >= sum(record.state == "done" for record in records)
    for name, spec in suite.tables.items():
        text = (paths.boards / f"{name}.md").read_text()
        assert f"A rehearsal with random weights and {LIMIT} images per cell." in text
        long = pd.read_csv(paths.boards / f"{name}.long.csv")
        tracks = {record.identity.cell.checkpoint for record in records}
        if tracks & {one for track in spec.tracks for one in suite.tracks[track].checkpoints}:
            assert (long["state"] == "done").any(), name
    if paper == "cleansight":
        plan, shown = suite.tracks["questions"], [record.identity.cell for record in records]
        assert {cell.checkpoint for cell in shown} == set(plan.checkpoints)
        assert {cell.defense for cell in shown} == set(plan.defenses)
        assert {cell.attack for cell in shown} == set(plan.attacks)
    for name in analyses_to_run(load_suite(paths.suite)):
        assert len(pd.read_csv(paths.boards / f"{name}.csv"))
        assert any((paths.boards / f"{name}{ending}").exists() for ending in (".png", ".md"))
    if records:
        with pytest.raises(UserError, match="was made with --limit 4, which no table may show"):
            evaluated_records(suite, paths)


@pytest.mark.parametrize("there", ["absolute", "above"])
def test_nothing_is_written_beside_a_suite(there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "lacking", lambda: ["transformers"])  # models are another test's
    suite, work = tmp_path / "leaderboards" / "cleansight", tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    shutil.copytree(ROOT / "leaderboards" / "cleansight", suite)
    before = {path: path.read_bytes() for path in suite.rglob("*.*")}
    path = suite / "benchmark.yaml" if there == "absolute" else Path("../leaderboards/cleansight/benchmark.yaml")
    rehearse(path, LIMIT, Path("scratch"), ARCHITECTURE)
    assert {path: path.read_bytes() for path in suite.rglob("*.*")} == before
    assert [one.name for one in work.iterdir()] == ["scratch"]
    (table,) = (work / "scratch").rglob("main_results.md")
    assert "missing; paper 62.89" in table.read_text("utf-8")
