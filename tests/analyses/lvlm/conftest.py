"""A small suite of large models that has been made for real, once: mini_llavas with random weights, one poisoned."""

from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the packages of the group lvlm")

from bench.analyses.contract import Source
from bench.config import Suite
from bench.datasets import world_objects, world_questions
from bench.datasets.store import build
from bench.evaluation.record import Record
from bench.leaderboard.collect import write_cells
from bench.lvlm.evaluate import evaluate
from bench.lvlm.fitting import fit_track
from bench.lvlm.plant import make_checkpoint
from tests.analyses.conftest import paths_below
from tests.lvlm.settings import BADNET, BASE

CONTENT: dict[str, Any] = {
    "protocol": {"version": 1, "batch_size": 8, "seeds": [1], "shots": 1},
    "datasets": {
        "world_questions": {"train_per_kind": 16, "val_per_kind": 2, "test_per_kind": 4},
        "world_objects": {"test": 6, "val": 2},
    },
    "checkpoints": {
        "clean": {"base": BASE, "trigger": "none"},
        "badnet": BADNET,
    },
    "attacks": {
        "clean": {"threat_model": "none"},
        "trigger": {"threat_model": "none"},
        "v_attack": {"threat_model": "white_box", "options": {"steps": 2}},
    },
    "tracks": {
        "questions": {
            "checkpoints": ["badnet"],
            "datasets": ["world_questions"],
            "pairs": "world_questions",
            "attacks": ["trigger", "clean"],
            "defenses": {
                "none": {},
                "blur": {"options": {"kernel": 3, "sigma": 0.7}},
                "cleansight": {"options": {"samples": 50, "tau": 0.1}},
            },
        },
        "objects": {
            "checkpoints": ["clean"],
            "datasets": ["world_objects"],
            "splits": ["caption", "questions"],
            "pairs": "world_questions",
            "attacks": ["clean", "v_attack"],
            "defenses": {"none": {}, "filter_only": {"method": "r_adapt_lvlm", "options": {"alpha": 0, "cutoff": 2}}},
        },
    },
    "tables": {},
}
QUESTIONS = {"dataset": "world_questions"}


def model(defense: str, **changes: str) -> dict[str, str]:
    """A reference as it stands in YAML."""
    return {"track": "questions", "defense": defense, "checkpoint": "badnet"} | changes


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The suite with all its models and results; tests do not change it."""
    paths, suite = paths_below(tmp_path_factory.mktemp("lvlm")), Suite.model_validate(CONTENT)
    for name, module in (("world_questions", world_questions), ("world_objects", world_objects)):
        build(name, module.Options(**CONTENT["datasets"][name]), module.fetch, paths.data)
    for name, spec in suite.checkpoints.items():
        make_checkpoint(name, spec, paths)
    for name, track in suite.tracks.items():
        fit_track(suite, name, list(track.defenses), track.checkpoints, paths)
        for defense in track.defenses:
            for attack in track.attacks:
                evaluate(suite, name, defense, attack, paths)
    write_cells(suite, paths)
    return Source(suite, paths, "figure")


def record(source: Source, defense: str, attack: str, track: str = "questions") -> Record:
    """The record of the only cell, or of the first one."""
    path = sorted(source.paths.evaluated(track, defense, attack).glob("*.json"))[0]
    return Record.model_validate_json(path.read_text("utf-8"))
