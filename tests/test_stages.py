"""A stage that tunes a whole track depends on the file of each of its defenses."""

from pathlib import Path

import pytest
import yaml

from bench.config import load_suite

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = [
    path
    for path in [ROOT / "dvc.yaml", *sorted(ROOT.glob("leaderboards/*/dvc.yaml"))]
    if "defend" in yaml.safe_load(path.read_text())["stages"]
]


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_all_defenses_of_a_track_are_dependencies_of_its_stage(pipeline: Path) -> None:
    suite, stage = load_suite(pipeline.with_name("benchmark.yaml")), yaml.safe_load(pipeline.read_text())["stages"]
    defend = stage["defend"]
    tracks = defend.get("matrix", {}).get("track", "${tracks}")
    for track in suite.tracks if tracks == "${tracks}" else tracks:
        methods = {
            part for name in suite.tracks[track].defenses for part in suite.tracks[track].method(name).split("+")
        }
        needed = {f"bench/defenses/{name}.py" for name in methods - {"none", *suite.planned.get("defenses", ())}}
        assert "bench/defenses" in defend["deps"] or needed <= set(defend["deps"]), (track, needed)
