"""Sample images from the rendered world and the shipped mini CLIP, at a size of seconds."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.backdoors.make import make_checkpoint
from bench.config import Suite
from bench.datasets.store import build, open_split, read_manifest
from bench.items import item_options, load_item
from bench.paths import Paths
from bench.report.samples import Sample, sample_strips
from tests.test_pipeline import SMALL

EPS = 8


@pytest.fixture(scope="module")
def suite() -> Suite:
    attacks = {
        "clean": {"threat_model": "none"},
        "trigger": {"threat_model": "none"},
        "pgd": {"threat_model": "white_box", "options": {"eps": EPS, "steps": 4}},
    }
    backdoor = {**SMALL["tracks"]["backdoor"], "attacks": ["clean", "trigger"]}
    tracks = {"adversarial": SMALL["tracks"]["adversarial"], "backdoor": backdoor}
    return Suite.model_validate({**SMALL, "attacks": attacks, "tracks": tracks})


@pytest.fixture(scope="module")
def paths(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    top: Path = tmp_path_factory.mktemp("samples")
    made = Paths(top / "benchmark.yaml", top / "data", top / "models", top / "results", top / "boards", top / ".bench")
    for dataset in ("shapes", "captions"):
        module = load_item("datasets", dataset, "test")
        build(dataset, item_options(module, suite.datasets[dataset], "test"), module.fetch, made.data)
    for name, spec in suite.checkpoints.items():
        make_checkpoint(name, spec, made)
    return made


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(sample.uri.partition(",")[2])))).astype(int)


def test_samples_are_clean_triggered_and_adversarial(suite, paths) -> None:
    strips, missing = sample_strips(suite, paths, 3)
    assert missing == []
    conditions = {strip.title: list(strip.conditions) for strip in strips}
    assert conditions["badnet on shapes"] == ["clean", "trigger"]
    assert conditions["clean on shapes"] == ["clean", "pgd", "change by pgd, amplified"]
    assert all(len(samples) == 3 for strip in strips for samples in strip.conditions.values())


def test_clean_samples_are_images_of_the_test_split(suite, paths) -> None:
    split = open_split(paths.data, read_manifest(paths.data, "shapes"), "test")
    strip = sample_strips(suite, paths, 1)[0][0]
    shown = pixels(strip.conditions["clean"][0]).transpose(2, 0, 1)
    assert any((shown == image).all() for image in split.images)


def test_a_trigger_changes_its_patch_alone(suite, paths) -> None:
    strip = next(one for one in sample_strips(suite, paths, 2)[0] if "trigger" in one.conditions)
    for clean, triggered in zip(strip.conditions["clean"], strip.conditions["trigger"], strict=True):
        changed = np.abs(pixels(triggered) - pixels(clean)).max(axis=2) > 0
        assert 0 < changed.sum() <= 4 * 4
        assert clean.truth != "heart"


def test_an_adversarial_sample_stays_within_its_bound(suite, paths) -> None:
    strip = next(one for one in sample_strips(suite, paths, 2)[0] if "pgd" in one.conditions)
    for clean, attacked in zip(strip.conditions["clean"], strip.conditions["pgd"], strict=True):
        assert 0 < np.abs(pixels(attacked) - pixels(clean)).max() <= EPS


def test_what_is_not_there_is_told_with_the_command_that_makes_it(suite, paths) -> None:
    elsewhere = paths._replace(models=paths.models / "none")
    strips, missing = sample_strips(suite, elsewhere, 2)
    assert strips == []
    assert len(missing) == 2
    assert all("bench checkpoint" in reason for reason in missing)
