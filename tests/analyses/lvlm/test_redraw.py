"""Pictures and tables about large models are made from their CSV and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from bench.analyses.contract import Source
from bench.analyses.run import analyse
from bench.config import Suite
from tests.analyses.conftest import paths_below
from tests.analyses.lvlm.conftest import QUESTIONS, model

pytestmark = pytest.mark.xdist_group("large")
FEW = QUESTIONS | {"images": 4}
GUARDED, OPEN = {"models": {"BadNet": model("cleansight")}}, {"models": {"BadNet": model("none")}}
ANALYSES: dict[str, dict[str, Any]] = {
    "ablation": FEW | GUARDED | {"settings": {"tau": {"0.1": {"tau": 0.1}, "0.2": {"tau": 0.2}}}, "resamples": 5},
    "attention_maps": QUESTIONS | GUARDED,
    "detection": {"panels": {"questions": FEW | GUARDED}, "resamples": 5},
    "even_attention": {"panels": {"questions": FEW | OPEN}, "strengths": [0, 1]},
    "guard": {"cells": {"track": "questions", "dataset": "world_questions"}},
    "seen_examples": {"attack": "trigger", "examples": [{"dataset": "world_questions", "row": 2}]} | OPEN,
}


@pytest.mark.parametrize("method", ANALYSES)
def test_the_csv_alone_gives_the_same_files_again(source: Source, method: str, tmp_path: Path) -> None:
    entry = {"method": method, "title": f"The {method}", "options": ANALYSES[method]}
    suite = Suite.model_validate(source.suite.model_dump() | {"analyses": {"figure": entry}})
    here, there = paths_below(tmp_path / "here"), paths_below(tmp_path / "there")
    for paths in (here, there):
        paths.boards.mkdir(parents=True)
    # The committed records stand beside the boards.
    (here.boards / "records").symlink_to(source.paths.records)
    measured = source.paths._replace(boards=here.boards)
    first = {path.name: path.read_bytes() for path in analyse(suite, "figure", measured)}
    (there.boards / "figure.csv").write_bytes(first.pop("figure.csv"))
    again = {path.name: path.read_bytes() for path in analyse(suite, "figure", there, redraw=True)}
    assert len(first) == 1
    assert again == first
