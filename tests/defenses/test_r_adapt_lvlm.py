"""R-Adapt's filter and anchor in the image towers of both families of large vision-language models."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers", reason="needs the packages of the group lvlm")

from bench.clip.model import weights_hash
from bench.clip.staged import StagedCLIP, Trace
from bench.defenses import blur, r_adapt, r_adapt_lvlm, r_adapt_plus_lvlm
from bench.errors import UserError
from bench.lvlm.answering import answer, encode, inputs_of
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.loading import build, with_tower
from bench.lvlm.model import Lvlm
from bench.lvlm.questions import Questions
from bench.lvlm.tower import first_attention, told, white_anchor

# Tokens of an image in the tower, and what the decoder is told: Qwen's merged patches, and those of two deeper layers.
TOWERS = {"mini_llava": (17, 16), "llava_1_5_7b": (5, 4), "qwen3_vl_8b": (16, 3 * 4)}
TEXTS = ["what shape is the object?", "is there a red heart in the image?", "describe the image."]
OFF = r_adapt_lvlm.Options(alpha=0, beta=1, cutoff=None)


@pytest.fixture(scope="module", params=TOWERS)
def lvlm(request: pytest.FixtureRequest) -> Lvlm:
    """With weights that are large enough for the first attention to matter."""
    made = with_tower(build(request.param, seed=5))
    if request.param != "mini_llava":
        with torch.no_grad():
            for parameter in made.family.tower(made.model).parameters():
                parameter.mul_(4 if parameter.dim() > 1 else 1)
    return made


def pictures(lvlm: Lvlm, count: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, lvlm.image_size, lvlm.image_size, generator=torch.Generator().manual_seed(seed))


def load(lvlm: Lvlm, options: r_adapt_lvlm.Options) -> DefendedLvlm:
    victim = DefendedLvlm(lvlm)
    return r_adapt_lvlm.load(r_adapt_lvlm.fit(victim, None, options), victim, options)


def logits(model: DefendedLvlm, images: torch.Tensor) -> torch.Tensor:
    encoded, seen = encode(model.lvlm, TEXTS), images if model.pixels is None else model.pixels(images)
    with torch.no_grad(), first_attention(model.lvlm, model.attention):
        return model.lvlm.model(**inputs_of(model.lvlm, seen, encoded)).logits


def test_switched_off_it_is_the_model_token_for_token(lvlm: Lvlm) -> None:
    images = pictures(lvlm)
    assert torch.equal(logits(load(lvlm, OFF), images), logits(DefendedLvlm(lvlm), images))
    assert load(lvlm, OFF).answer(images, TEXTS, longest=6).texts == answer(lvlm, images, TEXTS, longest=6)


def test_the_anchor_alone_is_the_model_on_a_white_image_and_no_other(lvlm: Lvlm) -> None:
    fixed = load(lvlm, r_adapt_lvlm.Options(alpha=1, beta=0, cutoff=None))
    white = torch.ones(1, 3, lvlm.image_size, lvlm.image_size)
    assert torch.equal(fixed.told(white), told(lvlm, white))
    images = pictures(lvlm)
    assert (fixed.told(images) - told(lvlm, images)).abs().max() > 1e-3


def test_the_anchor_has_a_row_for_each_token_and_a_mixture_of_it_is_added(lvlm: Lvlm) -> None:
    tokens, heard = TOWERS[lvlm.architecture]
    anchor, images = white_anchor(lvlm), pictures(lvlm)
    assert anchor.shape[0] == tokens
    assert told(lvlm, images).shape[:2] == (3, heard)
    plain, mixed = list[torch.Tensor](), list[torch.Tensor]()
    options = r_adapt_lvlm.Options(alpha=0.8, beta=0.2, cutoff=None)
    defended = load(lvlm, options)
    assert defended.attention is not None

    def note(added: torch.Tensor) -> torch.Tensor:
        plain.append(added)
        mixed.append(defended.attention(added))
        return mixed[-1]

    replace(defended, attention=note).told(images)
    assert plain[0].shape == (3, tokens, anchor.shape[1])
    torch.testing.assert_close(mixed[0], 0.8 * anchor + 0.2 * plain[0])
    (alone,) = (replace(defended, attention=note).told(images[1:2]), plain[-1])[1:]
    torch.testing.assert_close(alone, plain[0][1:2])


def test_without_attention_of_its_own_the_tower_still_sees_the_image_and_has_gradients(lvlm: Lvlm) -> None:
    fixed, images = load(lvlm, r_adapt_lvlm.Options(alpha=1, beta=0, cutoff=4)), pictures(lvlm).requires_grad_()
    (gradient,) = torch.autograd.grad(fixed.told(images)[0].sum(), images)
    assert gradient[0].abs().max() > 0
    assert gradient[1:].abs().max() == 0


def test_the_filter_is_that_of_the_clip_and_comes_behind_other_pixels(lvlm: Lvlm) -> None:
    images, options = pictures(lvlm), r_adapt_lvlm.Options(alpha=0, beta=1, cutoff=3)
    low = r_adapt.low_pass(lvlm.image_size, 3)
    torch.testing.assert_close(load(lvlm, options).told(images), told(lvlm, low(images)))
    victim = blur.load({}, DefendedLvlm(lvlm), blur.Options(kernel=3, sigma=1))
    assert victim.pixels is not None
    both = r_adapt_lvlm.load(r_adapt_lvlm.fit(victim, None, options), victim, options)
    torch.testing.assert_close(both.told(images), told(lvlm, low(victim.pixels(images))))


def test_afterwards_the_tower_is_as_it_was_even_if_the_edit_fails(lvlm: Lvlm) -> None:
    images = pictures(lvlm)
    before = told(lvlm, images)

    def fails(added: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        DefendedLvlm(lvlm, attention=fails).told(images)
    assert torch.equal(told(lvlm, images), before)


def test_tuning_changes_the_anchor_only_and_brings_attacked_images_nearer_to_clean_ones(lvlm: Lvlm) -> None:
    victim, images = DefendedLvlm(lvlm), (pictures(lvlm, 24, seed=4) * 255).to(torch.uint8)
    options = r_adapt_plus_lvlm.Options(cutoff=8, eps=8, samples=16, batch_size=8, epochs=12, learning_rate=2e-2)
    before = weights_hash(lvlm.model)
    torch.manual_seed(1)
    tensors = r_adapt_plus_lvlm.fit(victim, Questions(images, []), options)
    assert weights_hash(lvlm.model) == before
    assert not any(parameter.requires_grad for parameter in lvlm.model.parameters())
    assert tensors["anchor"].shape == white_anchor(lvlm).shape
    torch.manual_seed(1)
    clean = images[torch.randperm(24)[:16]].float() / 255
    attacked = r_adapt_plus_lvlm.away(victim, victim, clean, options)
    assert (attacked - clean).abs().max() <= 8 / 255 + 1e-6
    far, right = (
        r_adapt_plus_lvlm.distance(
            r_adapt_plus_lvlm.load({"anchor": anchor}, victim, options).told(attacked), victim.told(clean)
        ).mean()
        for anchor in (white_anchor(lvlm), tensors["anchor"])
    )
    assert right < far


def test_attacked_images_are_farther_than_noise_and_the_larger_the_ball_the_farther(lvlm: Lvlm) -> None:
    victim, clean = DefendedLvlm(lvlm), pictures(lvlm, 8)

    def reached(eps: float, steps: int) -> float:
        torch.manual_seed(0)
        options = r_adapt_plus_lvlm.Options(eps=eps, attack_steps=steps)
        found = r_adapt_plus_lvlm.away(victim, victim, clean, options)
        return r_adapt_plus_lvlm.distance(victim.told(found), victim.told(clean)).mean().item()

    assert reached(4, 0) < reached(4, 10) < reached(16, 10)


def test_online_attacks_go_through_filter_and_anchor(lvlm: Lvlm) -> None:
    images = (pictures(lvlm, 4) * 255).to(torch.uint8)
    made = list[torch.Tensor]()
    for online in (False, True):
        torch.manual_seed(1)
        options = r_adapt_plus_lvlm.Options(epochs=1, attack_steps=2, cutoff=8, online=online)
        made.append(r_adapt_plus_lvlm.fit(DefendedLvlm(lvlm), Questions(images, []), options)["anchor"])
    assert not torch.equal(*made)


def test_what_does_not_fit_is_told(lvlm: Lvlm) -> None:
    once = load(lvlm, r_adapt_lvlm.Options(cutoff=8))
    with pytest.raises(UserError, match="edits the image tower's first attention already"):
        r_adapt_lvlm.fit(once, None, r_adapt_lvlm.Options(cutoff=8))
    with pytest.raises(UserError, match=f"cutoff 999 is larger than the image of {lvlm.image_size} pixels"):
        r_adapt_plus_lvlm.load({}, DefendedLvlm(lvlm), r_adapt_plus_lvlm.Options(cutoff=999))


def test_images_of_another_size_are_resized_to_the_models_own() -> None:
    lvlm = build("qwen3_vl_8b")
    images = pictures(lvlm, 2)
    large = torch.nn.functional.interpolate(images, scale_factor=2, mode="nearest")
    assert told(lvlm, large).shape == told(lvlm, images).shape


def test_the_mini_towers_anchor_is_that_of_the_clip_that_it_comes_from() -> None:
    from bench.clip.model import Base
    from bench.clip.model import load as load_clip

    staged, trace = StagedCLIP(load_clip(Base(architecture="mini", weights="shipped"))), Trace()
    staged.image(torch.ones(1, 3, 32, 32), trace=trace)
    assert trace.first_attention is not None
    torch.testing.assert_close(white_anchor(with_tower(build("mini_llava"))), trace.first_attention[0])
