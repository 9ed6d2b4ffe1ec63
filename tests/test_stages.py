"""Stages depend on what they read: the files of defenses, and the manifests of datasets."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.config import Suite, load_suite

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = [ROOT / "dvc.yaml", *sorted(ROOT.glob("leaderboards/*/dvc.yaml"))]
TUNING_TRACKS = [path for path in PIPELINES if "defend" in yaml.safe_load(path.read_text())["stages"]]


def each(pipelines: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pipeline", pipelines, ids=lambda path: str(path.parent.relative_to(ROOT)))


@each(TUNING_TRACKS)
def test_all_defenses_of_a_track_are_dependencies_of_its_stage(pipeline: Path) -> None:
    suite, stages = _opened(pipeline)
    for track in _tracks(suite, stages["defend"]):
        methods = {
            part for name in suite.tracks[track].defenses for part in suite.tracks[track].method(name).split("+")
        }
        needed = {f"bench/defenses/{name}.py" for name in methods - {"none", *suite.planned.get("defenses", ())}}
        given = set(stages["defend"]["deps"])
        assert "bench/defenses" in given or needed <= given, (track, needed - given)


@each(PIPELINES)
def test_all_datasets_of_a_checkpoint_are_dependencies_of_its_stage(pipeline: Path) -> None:
    suite, stages = _opened(pipeline)
    stage = stages["checkpoint"]
    given = stage.get("do", stage).get("deps", [])
    for name, spec in suite.checkpoints.items():
        if spec.trigger != "none":
            _all_given({spec.dataset, spec.pairs}, given, name, item=spec.model_dump())


@each(PIPELINES)
def test_all_datasets_of_a_track_are_dependencies_of_its_evaluation(pipeline: Path) -> None:
    suite, stages = _opened(pipeline)
    for name, track in suite.tracks.items():
        over_tracks = stages.get("evaluate") if name in _tracks(suite, stages.get("evaluate")) else None
        stage = stages.get(f"evaluate_{name}", over_tracks)
        assert stage is not None, f"no stage evaluates {name}"
        _all_given(set(track.datasets), stage["deps"], name)


def _opened(pipeline: Path) -> tuple[Suite, dict[str, Any]]:
    return load_suite(pipeline.with_name("benchmark.yaml")), yaml.safe_load(pipeline.read_text())["stages"]


def _tracks(suite: Suite, stage: dict[str, Any] | None) -> list[str]:
    """The tracks that a stage over tracks has."""
    if stage is None:
        return []
    tracks = stage.get("matrix", {}).get("track", "${tracks}")
    return list(suite.tracks) if tracks == "${tracks}" else tracks


def _all_given(datasets: set[str], given: list[str], what: str, item: dict[str, Any] | None = None) -> None:
    for key, value in (item or {}).items():
        given = [path.replace(f"${{item.{key}}}", str(value)) for path in given]
    lacking = {f"data/manifests/{name}.json" for name in datasets - {""}} - set(given)
    assert not lacking, (what, lacking)
