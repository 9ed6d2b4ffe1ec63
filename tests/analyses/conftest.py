"""A small suite that has been made for real, once: mini CLIPs with random weights.

One is poisoned, with three defenses. ``tuned`` has the text tower of ``clean`` and an image tower of its own: it stands
for a model that was made robust.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.analyses.contract import Source
from bench.analyses.subjects.models import Opened, Sample, open_models, open_sample
from bench.analyses.subjects.references import ImageReference, ModelReference
from bench.backdoors.checkpoint import load_checkpoint
from bench.backdoors.make import make_checkpoint
from bench.clip.model import build as build_clip
from bench.clip.model import save_weights
from bench.config import Suite
from bench.datasets import captions, scenes, shapes
from bench.datasets.store import build
from bench.defenses.fitting import fit_all
from bench.evaluation.run import evaluate
from bench.leaderboard.collect import write_cells
from bench.paths import Paths

MINI = {"architecture": "mini", "weights": "random"}
CONTENT: dict[str, Any] = {
    "protocol": {"version": 1, "batch_size": 16, "seeds": [1], "shots": 1},
    "datasets": {
        "shapes": {"train_per_class": 1, "val_per_class": 1, "test_per_class": 2},
        "captions": {"pairs": 32},
        "scenes": {"images": 12},
    },
    "checkpoints": {
        "clean": {"base": MINI, "trigger": "none"},
        "tuned": {"base": MINI, "trigger": "none"},
        "badnet": {
            "base": MINI,
            "trigger": "badnet",
            "trigger_options": {"size": 4, "location": "corner", "pattern": "fixed"},
            "target": "heart",
            "dataset": "shapes",
            "pairs": "captions",
            "poison_rate": 0.5,
            "train": {"epochs": 1, "batch_size": 32},
            "gate": {"least_asr": 0, "largest_ca_loss": 100},
        },
    },
    "attacks": {
        "clean": {"threat_model": "none"},
        "trigger": {"threat_model": "none"},
        "pgd": {"threat_model": "white_box", "options": {"eps": 8, "step": 4, "steps": 2}},
        "pgd_grey": {"threat_model": "grey_box", "method": "pgd", "options": {"eps": 8, "step": 4, "steps": 2}},
        "captions": {"threat_model": "white_box", "method": "caption_pgd", "options": {"eps": 8, "steps": 2}},
        "captions_grey": {"threat_model": "grey_box", "method": "caption_pgd", "options": {"eps": 8, "steps": 2}},
    },
    "tracks": {
        "backdoor": {
            "checkpoints": ["badnet"],
            "datasets": ["shapes"],
            "attacks": ["clean", "trigger"],
            "pairs": "captions",
            "defenses": {
                "none": {},
                "rvpt": {"options": {"epochs": 1, "warmup_epochs": 0, "learning_rate": 1.0, "depth": 4, "length": 3}},
                "cleanclip": {"options": {"epochs": 1, "pairs": 20, "batch_size": 20}},
            },
        },
        "robust": {
            "checkpoints": ["clean", "tuned"],
            "datasets": ["shapes"],
            "attacks": ["clean"],
            "defenses": {"none": {}, "linear_probe": {"options": {"epochs": 1}}},
        },
    },
    "tables": {},
}


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The suite with all its models and results; tests do not change it."""
    top = tmp_path_factory.mktemp("suite")
    paths, content = paths_below(top), copy.deepcopy(CONTENT)
    content["checkpoints"]["tuned"]["base"] = MINI | {"weights": str(_tuned(top))}
    suite = Suite.model_validate(content)
    for name, module in (("shapes", shapes), ("captions", captions), ("scenes", scenes)):
        build(name, module.Options(**CONTENT["datasets"][name]), module.fetch, paths.data)
    for name, spec in suite.checkpoints.items():
        make_checkpoint(name, spec, paths)
    for defense in suite.tracks["backdoor"].defenses:
        fit_all(suite, "backdoor", defense, "badnet", load_checkpoint(paths.checkpoint("badnet")), paths)
        for attack in suite.tracks["backdoor"].attacks:
            evaluate(suite, "backdoor", defense, attack, paths)
    for checkpoint in suite.tracks["robust"].checkpoints:
        for defense in suite.tracks["robust"].defenses:
            fit_all(suite, "robust", defense, checkpoint, load_checkpoint(paths.checkpoint(checkpoint)), paths)
    write_cells(suite, paths)
    return Source(suite, paths, "figure")


def _tuned(top: Path) -> Path:
    """Weights of the clean model with noise on the image tower."""
    clip, path, stream = build_clip("mini"), top / "tuned.safetensors", torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in clip.model.visual.state_dict().values():
            tensor += 0.05 * torch.randn(tensor.shape, generator=stream)
    save_weights(clip, path)
    return path


def paths_below(top: Path) -> Paths:
    return Paths(top / "benchmark.yaml", top / "data", top / "models", top / "results", top / "boards", top / ".bench")


@pytest.fixture(scope="session")
def sample(source: Source) -> Sample:
    """All test images of the suite."""
    return open_sample(source, ImageReference(dataset="shapes"))


@pytest.fixture(scope="session")
def opened(source: Source, sample: Sample) -> Callable[[str], Opened]:
    """Opens one of the suite's defenses."""

    def open_one(defense: str) -> Opened:
        (model,) = open_models(source, {defense: reference(defense)}, sample)
        return model

    return open_one


def reference(defense: str) -> ModelReference:
    return ModelReference(track="backdoor", defense=defense, checkpoint="badnet")


def models(*defenses: str) -> dict[str, dict[str, str]]:
    """References as they stand in YAML."""
    return {name: {"track": "backdoor", "defense": name, "checkpoint": "badnet"} for name in defenses}


CLEAN = {"track": "robust", "defense": "none", "checkpoint": "clean"}
TUNED = CLEAN | {"checkpoint": "tuned"}


def images(count: int, size: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))
