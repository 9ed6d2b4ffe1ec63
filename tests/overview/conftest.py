"""A small suite in a folder of its own, which the tests run in."""

import copy
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from bench.config import Suite, load_suite
from bench.evaluation.record import Cell, Identity, Record, State
from bench.files import write_text
from bench.paths import Paths, paths_for
from bench.provenance import Provenance

ROOT = Path(__file__).resolve().parents[2]
MINI = {"architecture": "mini", "weights": "random"}
CONTENT = {
    "protocol": {"version": 1, "batch_size": 8, "seeds": [1], "shots": 2},
    "datasets": {
        "shapes": {"train_per_class": 2, "val_per_class": 1, "test_per_class": 2},
        "captions": {"pairs": 64},
    },
    "checkpoints": {
        "clean": {"base": MINI, "trigger": "none"},
        "badnet": {
            "base": MINI,
            "trigger": "badnet",
            "trigger_options": {"size": 4},
            "target": "heart",
            "dataset": "shapes",
            "pairs": "captions",
            "poison_rate": 0.1,
            "train": {"epochs": 3, "batch_size": 32},
        },
    },
    "attacks": {
        "clean": {"threat_model": "none"},
        "trigger": {"threat_model": "none"},
        "pgd": {"threat_model": "white_box", "images": 12, "options": {"eps": 4, "steps": 5}},
        "autoattack": {"threat_model": "white_box", "images": 10},
    },
    "tracks": {
        "backdoor": {
            "checkpoints": ["badnet"],
            "datasets": ["shapes"],
            "pairs": "captions",
            "attacks": ["clean", "trigger"],
            "defenses": {"none": {}, "cleanclip": {"options": {"epochs": 2, "pairs": 50}}},
        },
        "adversarial": {
            "checkpoints": ["clean"],
            "datasets": ["shapes"],
            "attacks": ["clean", "pgd", "autoattack"],
            "defenses": {"none": {}, "rvpt": {"options": {"epochs": 4}}},
        },
    },
    "tables": {
        "one": {"title": "One", "tracks": ["backdoor"], "rows": ["defense"], "columns": ["checkpoint", "metric"]},
        "two": {"title": "Two", "tracks": ["adversarial"], "rows": ["attack", "defense"], "columns": ["dataset"]},
    },
    "analyses": {
        "map": {
            "method": "embeddings",
            "title": "Map",
            "options": {
                "dataset": "shapes",
                "models": {"CLIP": {"track": "backdoor", "defense": "none", "checkpoint": "badnet"}},
            },
        }
    },
}


@pytest.fixture
def content() -> dict:
    """The suite as plain data, to be changed at will."""
    return copy.deepcopy(CONTENT)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Folders below a fresh working directory, with the pipeline of the default suite."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return paths_for(Path("benchmark.yaml"))


@pytest.fixture
def read_suite(paths: Paths) -> Callable[[dict], Suite]:
    """Write plain data to the suite's file and read it from there."""

    def read(content: dict) -> Suite:
        paths.suite.write_text(yaml.safe_dump(content, sort_keys=False))
        return load_suite(paths.suite)

    return read


@pytest.fixture
def suite(read_suite: Callable[[dict], Suite], content: dict) -> Suite:
    return read_suite(content)


@pytest.fixture
def page() -> Console:
    """A console whose text can be read with ``page.file.getvalue()``."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def write_record(paths: Paths) -> Callable[..., Path]:
    """Write a cell's record below ``results``."""

    def write(suite: Suite, track: str, cell: Cell, state: State = "done", reason: str = "") -> Path:
        spec = suite.attacks[cell.attack]
        identity = Identity(
            cell=cell,
            checkpoint="c",
            artefact="a",
            manifest="m",
            attack="s",
            attack_options=spec.options,
            images=spec.images,
            protocol=suite.protocol,
        )
        origin = Provenance(commit="0", dirty=False, python="3", packages={}, device="cpu", threads=1)
        record = Record(identity=identity, metric="RA", state=state, reason=reason, provenance=origin)
        path = paths.evaluated(track, cell.defense, cell.attack) / f"{cell.name}.json"
        write_text(path, record.model_dump_json())
        return path

    return write
