"""Both towers of CLIP on the device."""

import pytest
import torch

from bench.clip.classifier import zero_shot
from bench.clip.model import build, weights_hash
from bench.clip.staged import ImageEdits, StagedCLIP, TextEdits
from tests.pretend_device import DEVICE


def test_models_are_built_on_the_device_and_images_follow(pretend, few, exact):
    here = StagedCLIP(build_here("mini"))
    there = StagedCLIP(build("mini"))
    assert there.device == DEVICE
    assert weights_hash(there.clip.model) == weights_hash(here.clip.model)
    names = few.task.class_names
    with torch.no_grad():
        torch.testing.assert_close(there.image(few.images).cpu(), here.image(few.images), rtol=1e-4, atol=1e-5)
        expected = zero_shot(here, names, few.task.template)(few.images)
        torch.testing.assert_close(
            zero_shot(there, names, few.task.template)(few.images).cpu(), expected, rtol=1e-4, atol=1e-4
        )
        # Edits that a defense left on the processor follow too.
        prompts = torch.rand(2, 128)
        edits = ImageEdits(shallow=prompts, prompts={2: prompts})
        torch.testing.assert_close(
            there.image(few.images, edits).cpu(), here.image(few.images, edits), rtol=1e-4, atol=1e-5
        )
        words = TextEdits(context=torch.rand(2, there.text_width), prompts={2: torch.rand(2, there.text_width)})
        sentences = ["x x circle."]
        torch.testing.assert_close(
            there.features_of(sentences, words).cpu(), here.features_of(sentences, words), rtol=1e-4, atol=1e-5
        )


def build_here(architecture):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DEVICE", "cpu")
        return build(architecture)
