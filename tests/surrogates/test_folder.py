"""Making surrogates from a suite, and loading them with every check that keeps a transfer result honest."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from bench.clip.defended import Task
from bench.config import Suite, load_suite
from bench.errors import UserError
from bench.paths import Paths, paths_for
from bench.surrogates.folder import load_surrogate, make_surrogate

SURROGATES = {"small": {"recipe": "contrastive", "options": {"steps": 1, "batch_size": 4, "digits_per_batch": 1}}}
TASK = Task(("circle", "square", "star"), "a photo of a {}.")


def suite_of(surrogates: dict) -> Suite:
    content = {
        "protocol": {"version": 1, "batch_size": 4, "seeds": [1], "shots": 1},
        "datasets": {}, "checkpoints": {}, "surrogates": surrogates, "attacks": {}, "tracks": {}, "tables": {},
    }  # fmt: skip
    Path("benchmark.yaml").write_text(yaml.safe_dump(content))
    return load_suite(Path("benchmark.yaml"))


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.chdir(tmp_path)
    return paths_for()


def test_a_surrogate_is_made_and_loaded(paths: Paths) -> None:
    suite = suite_of(SURROGATES)
    state = torch.random.get_rng_state()
    card = make_surrogate(suite, "small", paths)
    assert torch.equal(state, torch.random.get_rng_state())
    assert paths.surrogate("small") == Path("models/surrogates/small")
    surrogate = load_surrogate(suite, "small", paths)
    assert surrogate.digest == card.digest
    model = surrogate.model(TASK)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert make_surrogate(suite, "small", paths).sha256 == card.sha256, "the same options give the same weights"


def test_what_does_not_fit_the_suite_is_refused_with_the_command(paths: Paths) -> None:
    suite = suite_of(SURROGATES)
    with pytest.raises(UserError, match=r"surrogate\.json is missing.*`bench surrogate small`"):
        load_surrogate(suite, "small", paths)
    make_surrogate(suite, "small", paths)
    other = suite_of({"small": {"recipe": "contrastive", "options": {"steps": 2, "batch_size": 4}}})
    with pytest.raises(UserError, match="made with other options or another recipe"):
        load_surrogate(other, "small", paths)
    weights = paths.surrogate("small") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"weights\.safetensors is missing or was changed"):
        load_surrogate(suite, "small", paths)


def test_the_digest_follows_weights_recipe_and_options(paths: Paths) -> None:
    card = make_surrogate(suite_of(SURROGATES), "small", paths)
    for change in ({"sha256": "0"}, {"source": "0"}, {"spec": card.spec.model_copy(update={"options": {}})}):
        assert card.model_copy(update=change).digest != card.digest
    assert card.model_copy(update={"wall_s": 9.0}).digest == card.digest
    assert json.loads((paths.surrogate("small") / "surrogate.json").read_text())["spec"]["options"]["seed"] == 2


def test_wrong_recipes_and_options_are_told(paths: Paths) -> None:
    with pytest.raises(UserError, match="unknown surrogate 'contrastiv'; did you mean 'contrastive'"):
        make_surrogate(suite_of({"small": {"recipe": "contrastiv"}}), "small", paths)
    with pytest.raises(UserError, match="did you mean 'steps'"):
        make_surrogate(suite_of({"small": {"recipe": "contrastive", "options": {"step": 2}}}), "small", paths)
