"""A small suite that computes on the pretended device: mini CLIPs with random weights, and every defense and attack."""

from typing import Any

import pytest

from bench.backdoors.make import make_checkpoint
from bench.config import Suite
from bench.datasets import captions, shapes
from bench.datasets.store import build
from bench.paths import Paths
from tests.analyses.conftest import MINI, paths_below
from tests.defenses.test_contract import QUICK


def quick(module: Any) -> dict[str, Any]:
    """Few steps: all images in one batch, where the method has batches."""
    batches = {"batch_size": 12} if "batch_size" in module.Options.model_fields else {}
    return QUICK[module] | batches


CONTENT: dict[str, Any] = {
    "protocol": {"version": 1, "batch_size": 8, "seeds": [1], "shots": 1},
    "datasets": {
        "shapes": {"train_per_class": 1, "val_per_class": 1, "test_per_class": 1},
        "captions": {"pairs": 32},
    },
    "checkpoints": {"clean": {"base": MINI, "trigger": "none"}},
    "attacks": {
        "pgd": {"threat_model": "white_box", "options": {"eps": 8, "step": 4, "steps": 1}},
    },
    "tracks": {
        "robust": {
            "checkpoints": ["clean"],
            "datasets": ["shapes"],
            "attacks": ["pgd"],
            "pairs": "captions",
            "defenses": {
                **{module.__name__.rsplit(".", 1)[-1]: {"options": quick(module)} for module in QUICK},
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
