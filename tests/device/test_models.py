"""Models of all kinds on the device: CLIP's towers, what is trained from scratch, surrogates, and a user's own."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from bench.clip.classifier import zero_shot
from bench.clip.defended import Task
from bench.clip.model import build, weights_hash
from bench.clip.pretrain import PretrainOptions, pretrain
from bench.clip.staged import ImageEdits, StagedCLIP, TextEdits
from bench.config import Suite
from bench.defenses.contract import Labelled
from bench.device import device_of
from bench.evaluation.external import load_external
from bench.overview.meter import Stopwatch
from bench.paths import Paths
from bench.surrogates.folder import load_surrogate, make_surrogate
from tests.device.conftest import CONTENT
from tests.pretend_device import DEVICE, NAME, pretending

TASK = Task(("circle", "square", "star"), "a photo of a {}.")
SURROGATES: dict[str, dict[str, Any]] = {
    "contrastive": {"steps": 2, "batch_size": 4, "digits_per_batch": 1, "width": 32},
    "ags": {"backbone": "resnet10", "images": "captions", "count": 8, "epochs": 1, "batch_size": 4},
    "published": {"architecture": "ViT-tiny", "weights": "random"},
}
TINY: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


def close(found: Tensor, expected: Tensor) -> None:
    assert found.device == DEVICE
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.usefixtures("exact")
def test_images_sentences_and_edits_follow_to_where_the_model_is(computing: None, few: Labelled) -> None:
    here = StagedCLIP(on_the_processor())
    words, prompts = torch.rand(2, here.text_width), torch.rand(2, here.image_width)
    edits = ImageEdits(shallow=prompts, prompts={2: prompts, 4: prompts[:0]})
    contexts = (TextEdits(), TextEdits(words, prompts={2: words}), TextEdits(words.expand(1, 2, -1)))
    names = few.task.class_names
    images = [here.image(few.images, each) for each in (ImageEdits(), edits)]
    texts = [here.features_of(["X X circle."], each) for each in contexts]
    logits = zero_shot(here, names, few.task.template)(few.images)
    with pretending():
        there = StagedCLIP(build("mini"))
        assert weights_hash(there.clip.model) == weights_hash(here.clip.model)
        for each, expected in zip((ImageEdits(), edits), images, strict=True):
            close(there.image(few.images, each), expected)
        for each, expected in zip(contexts, texts, strict=True):
            close(there.features_of(["X X circle."], each), expected)
        close(zero_shot(there, names, few.task.template)(few.images), logits)


@pytest.mark.usefixtures("exact")
def test_a_clip_is_trained_from_scratch_as_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    options = PretrainOptions(steps=2, batch_size=8, digits_per_batch=2)
    expected = pretrain(options, build("mini")).model.state_dict()
    monkeypatch.setenv("BENCH_DEVICE", NAME)
    with pretending():
        found = pretrain(options, build("mini")).model.state_dict()
    for name, tensor in expected.items():
        close(found[name], tensor)


@pytest.mark.parametrize("recipe", SURROGATES)
def test_every_surrogate_is_made_and_answers(
    recipe: str, paths: Paths, tmp_path: Path, computing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-tiny", TINY)
    content = CONTENT | {"surrogates": {recipe: {"recipe": recipe, "options": SURROGATES[recipe]}}}
    suite, images = Suite.model_validate(content), torch.rand(2, 3, 32, 32)
    with pretending():
        made = paths._replace(models=tmp_path)
        make_surrogate(suite, recipe, made)
        surrogate = load_surrogate(suite, recipe, made).model(TASK)
        assert device_of(surrogate) == DEVICE
        inputs = images.to(DEVICE).requires_grad_()
        (gradient,) = torch.autograd.grad(surrogate(inputs).sum(), inputs)
        assert gradient.cpu().abs().sum() > 0


def test_a_users_model_comes_to_the_device(tmp_path: Path, pretend: torch.device) -> None:
    (tmp_path / "mine.py").write_text("from torch import nn\ndef load():\n    return nn.Linear(2, 2)\n")
    assert device_of(load_external(f"{tmp_path}/mine.py:load").model) == pretend


def test_the_speed_of_the_device_is_measured(computing: None) -> None:
    with pretending():
        meter = Stopwatch()
        assert meter.passes("mini", 2).gradient_s > 0
        assert meter.pair_s("mini", 2) > 0
        assert meter.peak_memory_mb() == 3


def on_the_processor() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DEVICE", "cpu")
        return build("mini")
