"""A small suite that computes on the pretended device: mini CLIPs with random weights, and every defense and attack."""

from pathlib import Path
from typing import Any

import pytest

from bench.backdoors.make import make_checkpoint
from bench.config import Suite
from bench.datasets import captions, shapes
from bench.datasets.store import build
from bench.paths import Paths
from tests.analyses.conftest import MINI, paths_below
from tests.defenses.test_contract import QUICK

CONTENT: dict[str, Any] = {
    "protocol": {"version": 1, "batch_size": 8, "seeds": [1], "shots": 1},
    "datasets": {
        "shapes": {"train_per_class": 1, "val_per_class": 1, "test_per_class": 1},
        "captions": {"pairs": 32},
    },
    "checkpoints": {"clean": {"base": MINI, "trigger": "none"}},
    "attacks": {
        "clean": {"threat_model": "none"},
        "pgd": {"threat_model": "white_box", "options": {"eps": 8, "step": 4, "steps": 1}},
    },
    "tracks": {
        "robust": {
            "checkpoints": ["clean"],
            "datasets": ["shapes"],
            "attacks": ["clean", "pgd"],
            "pairs": "captions",
            "defenses": {
                **{module.__name__.rsplit(".", 1)[-1]: {"options": options} for module, options in QUICK.items()},
                "robust_weights": {"options": {"weights": "random"}},
                "tecoa_r_adapt_m": {
                    "method": "tecoa+r_adapt_m",
                    "options": {
                        "tecoa": {"epochs": 1, "attack_steps": 1, "warmup_steps": 0},
                        "r_adapt_m": {"cutoff": 6},
                    },
                },
            },
        },
    },
    "tables": {},
}


@pytest.fixture(scope="session")
def suite() -> Suite:
    return Suite.model_validate(CONTENT)


@pytest.fixture(scope="session")
def paths(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """With data and the clean checkpoint, which were made on the processor."""
    paths = paths_below(tmp_path_factory.mktemp("suite"))
    for name, module in (("shapes", shapes), ("captions", captions)):
        build(name, module.Options(**CONTENT["datasets"][name]), module.fetch, paths.data)
    make_checkpoint("clean", suite.checkpoints["clean"], paths)
    return paths


@pytest.fixture
def elsewhere(paths: Paths, tmp_path: Path) -> Paths:
    """The same data and checkpoints; what is tuned and evaluated goes to a folder of its own."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base").symlink_to(paths.models / "base")
    return paths._replace(models=tmp_path / "models", store=tmp_path / "store", results=tmp_path / "results")
