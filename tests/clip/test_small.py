import json

import pytest
import torch

from bench.clip.model import Base, build, load, weights_hash
from bench.clip.pretrain import PretrainOptions, pretrain_to
from bench.clip.small import shipped_weights, small_architectures
from bench.clip.staged import StagedCLIP
from bench.config import PretrainingSpec, load_suite
from bench.errors import UserError
from bench.files import sha256_of
from bench.paths import DEFAULT_SUITE


@pytest.mark.parametrize("architecture", small_architectures())
def test_the_staged_pass_of_every_small_clip_is_open_clips_own(architecture, exact):
    staged = StagedCLIP(build(architecture))
    images = torch.rand(2, 3, staged.clip.image_size, staged.clip.image_size)
    with torch.no_grad():
        ours = staged.image(images)
        theirs = staged.clip.model.encode_image((images - 0.5) / 0.25)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("architecture", small_architectures())
def test_shipped_weights_are_those_that_their_card_describes(architecture):
    weights = shipped_weights(architecture)
    if weights is None:
        with pytest.raises(UserError, match="ship with weights"):
            load(Base(architecture=architecture, weights="shipped"))
        return
    card = json.loads((weights.parent / "card.json").read_text("utf-8"))
    assert card["sha256"] == sha256_of(weights)
    recipe = load_suite(DEFAULT_SUITE).pretraining[architecture]
    assert card["architecture"] == recipe.architecture == architecture
    assert card["recipe"] == PretrainOptions.model_validate(recipe.options).model_dump()
    assert card["zero_shot"]["shapes"]["test"] >= 95
    assert card["zero_shot"]["digits"]["test"] >= 90


def test_a_small_clip_is_trained_anew_and_loaded_beside_its_architecture(tmp_path):
    spec = PretrainingSpec(architecture="mini_small", options={"steps": 1, "batch_size": 20})
    card = pretrain_to(tmp_path / "trial", spec, tmp_path, "here")
    path = tmp_path / "trial" / "weights.safetensors"
    trained = load(Base(architecture="mini_small", weights=str(path)))
    assert card.sha256 == sha256_of(path)
    assert card.parameters == sum(parameter.numel() for parameter in trained.model.parameters())
    assert weights_hash(trained.model) != weights_hash(build("mini_small", 1).model)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["trial"]


def test_what_is_no_small_clip_cannot_be_trained_from_scratch(tmp_path):
    with pytest.raises(UserError, match="did you mean 'mini_small'"):
        pretrain_to(tmp_path / "trial", PretrainingSpec(architecture="mini_smal"), tmp_path, "here")
