from dataclasses import replace

import pytest
import torch

from bench.analyses import insensitivity
from bench.analyses.contract import Source
from bench.analyses.formulas.similarity import cosine
from bench.analyses.insensitivity import first_attentions, other_images
from bench.analyses.subjects.models import Sample, load_models
from bench.analyses.subjects.references import ModelReference
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import ImageEdits, StagedCLIP
from bench.errors import UserError
from tests.analyses.conftest import CLEAN, TUNED

OPTIONS = insensitivity.Options.model_validate({"dataset": "shapes", "models": {"clean": CLEAN, "tuned": TUNED}})


def test_it_is_torchs_own_attention_of_the_first_block(source: Source, sample: Sample) -> None:
    (model,) = load_models(source, {"tuned": ModelReference.model_validate(TUNED)}, "shapes")
    images, staged = sample.split.batch(range(5)), model.defended.staged
    with torch.no_grad():
        block, tokens = staged.image_blocks[0], staged.image_tokens(images)
        entering = block.ln_1(tokens)
        expected, _ = block.attn(entering, entering, entering)
    torch.testing.assert_close(first_attentions(model.defended, images), expected.flatten(1), atol=1e-6, rtol=1e-5)


def test_a_constant_block_makes_no_difference_at_all(mini: StagedCLIP) -> None:
    anchor = torch.randn(1 + mini.patches, mini.image_width, generator=torch.Generator().manual_seed(1))
    fixed = DefendedCLIP(mini, ImageEdits(attention={1: lambda attended: 1.2 * anchor + 0 * attended}))
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    seen = first_attentions(fixed, images)
    assert (1 - cosine(seen, seen[other_images(6, 1)])).abs().max() == 0
    own = first_attentions(DefendedCLIP(mini), images)
    assert (1 - cosine(own, own[other_images(6, 1)])).min() > 1e-4
    prompted = replace(fixed, image_edits=replace(fixed.image_edits, attention={}, shallow=torch.ones(3, 128)))
    assert first_attentions(prompted, images).shape == own.shape, "prompts are left out"


@pytest.mark.parametrize("count", [2, 3, 50])
def test_every_image_is_compared_with_another_one(count: int) -> None:
    partners = other_images(count, 7)
    assert sorted(partners.tolist()) == list(range(count))
    assert (partners != torch.arange(count)).all()
    assert torch.equal(partners, other_images(count, 7))


def test_each_pair_of_models_has_its_mean_cosine(source: Source, sample: Sample) -> None:
    frame = insensitivity.measure(source, OPTIONS)
    assert len(frame) == 2 * 2 * 2
    first, second = load_models(source, OPTIONS.models, "shapes")
    images = sample.split.batch(sample.rows)
    with_white = first_attentions(second.defended, torch.ones(1, 3, 32, 32))
    expected = torch.nn.functional.cosine_similarity(first_attentions(first.defended, images), with_white)
    found = frame.set_index(["model", "other", "against"]).loc[("clean", "tuned", "white")]
    assert found["cosine"] == pytest.approx(expected.mean().item(), abs=1e-5)
    assert found["low"] < found["cosine"] < found["high"]
    assert found["n"] == 24
    random = frame[frame["against"] == "random"].set_index(["model", "other"])["cosine"]
    # The same pairs of images the other way round are not the same numbers, but close.
    assert random["clean", "tuned"] == pytest.approx(random["tuned", "clean"], abs=0.05)


def test_models_of_other_widths_are_refused(source: Source, mini: StagedCLIP, vit_b_32: StagedCLIP) -> None:
    with pytest.raises(UserError, match="'a' is a 'mini' and 'b' a 'ViT-B-32', whose tokens cannot be compared"):
        insensitivity._check_alike(source, {"a": DefendedCLIP(mini), "b": DefendedCLIP(vit_b_32)}, "a", "b")
