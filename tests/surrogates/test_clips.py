"""Surrogates that are CLIPs: small ones trained here, and those of open_clip."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch.nn import functional

from bench.clip.classifier import zero_shot
from bench.clip.defended import Task
from bench.clip.model import Base, load
from bench.clip.pretrain import PretrainOptions
from bench.clip.staged import StagedCLIP
from bench.errors import UserError
from bench.surrogates import contrastive, plain, published, shipped

TASK = Task(("circle", "square", "star"), "a photo of a {}.")
FAST: dict[str, Any] = {"steps": 2, "batch_size": 4, "digits_per_batch": 1}


def test_the_plain_classifier_equals_that_of_the_staged_clip(mini: StagedCLIP) -> None:
    images = torch.rand(3, 3, 32, 32)
    expected = zero_shot(mini, TASK.class_names, TASK.template)(images)
    torch.testing.assert_close(plain.zero_shot(mini.clip, TASK)(images), expected, rtol=0, atol=1e-4)


def test_images_of_another_size_are_resized_inside_and_have_gradients(mini: StagedCLIP) -> None:
    images = torch.rand(2, 3, 48, 48).requires_grad_()
    model = plain.zero_shot(mini.clip, TASK)
    resized = functional.interpolate(images, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(model(images), model(resized), rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_a_small_clip_is_trained_and_restored(tower: str, tmp_path: Path) -> None:
    options = contrastive.Options(tower=tower, width=32, layers=1, **FAST)
    tensors = contrastive.make(options, tmp_path)
    model = contrastive.restore(tensors, options, TASK)
    torch.manual_seed(options.seed)
    fresh = contrastive.build(options).model.state_dict()
    assert fresh.keys() == tensors.keys()
    assert any(not torch.equal(fresh[name], tensors[name]) for name in fresh if name.startswith("visual"))
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(model(images), model(images)), "evaluation mode"
    torch.testing.assert_close(model(images)[:1], model(images[:1]), rtol=0, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_towers_are_those_that_the_options_name() -> None:
    resnet, vit = (contrastive.build(contrastive.Options(tower=tower, width=32)) for tower in ("resnet", "vit"))
    assert type(resnet.model.visual).__name__ == "ModifiedResNet"
    assert type(vit.model.visual).__name__ == "VisionTransformer"


def test_a_surrogate_sees_other_images_than_the_shipped_model() -> None:
    assert contrastive.Options().seed != PretrainOptions().seed


def test_open_clips_resnets_serve_as_surrogates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # RN50's own config with fewer channels, entered under a name of its own.
    config = open_clip.get_model_config("RN50")
    tiny = {
        "embed_dim": 16,
        "vision_cfg": {**config["vision_cfg"], "image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
        "text_cfg": {**config["text_cfg"], "width": 16, "heads": 1, "layers": 1},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "RN-tiny", tiny)
    options = published.Options(architecture="RN-tiny", weights="random")
    tensors = published.make(options, tmp_path)
    model = published.restore(tensors, options, Task(("cat", "dog"), "a photo of a {}."))
    images = torch.rand(2, 3, 64, 64)
    assert model(images).shape == (2, 2)
    again = published.restore(tensors, options, Task(("cat", "dog"), "a photo of a {}."))
    assert torch.equal(again(images), model(images)), "the weights are those that were stored"


def test_weights_that_are_not_published_are_refused_before_any_download(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'openai'"):
        published.make(published.Options(architecture="RN50-quickgelu", weights="openia"), tmp_path)
    with pytest.raises(UserError, match="use architecture 'RN50-quickgelu' instead of 'RN50'"):
        published.make(published.Options(architecture="RN50", weights="openai"), tmp_path)
    with pytest.raises(UserError, match="unknown architecture"):
        published.make(published.Options(architecture="RN5"), tmp_path)


def test_a_shipped_clip_serves_as_it_is(tmp_path: Path) -> None:
    options = shipped.Options(architecture="mini_small")
    model = shipped.restore(shipped.make(options, tmp_path), options, TASK)
    images = torch.rand(2, 3, 32, 32)
    clip = load(Base(architecture="mini_small", weights="shipped"))
    assert torch.equal(model(images), plain.zero_shot(clip, TASK)(images))
    with pytest.raises(UserError, match="only 'mini' and "):
        shipped.make(shipped.Options(architecture="ViT-B-32"), tmp_path)
