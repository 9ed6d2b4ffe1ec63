"""R-Adapt: a low-pass filter and a fixed first attention, in three forms."""

import math
from dataclasses import replace

import pytest
import torch

from bench.clip.defended import Task
from bench.clip.model import normalise
from bench.clip.staged import Trace
from bench.config import parse
from bench.defenses import apt, r_adapt, r_adapt_m, r_adapt_plus, rvpt, tecoa
from bench.defenses.adversarial import attack_model
from bench.defenses.tuning import tune
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("seeded", "exact")

QUICK_PLUS = {"cutoff": 6.0, "epochs": 2, "attack_steps": 2, "batch_size": 4}


@pytest.fixture
def robust(shipped, few):
    """The shipped model after a little adversarial fine-tuning."""
    options = tecoa.Options(epochs=1, batch_size=8, warmup_steps=0, learning_rate=1e-3, attack_steps=1)
    return tecoa.load(tecoa.fit(shipped, few, options), shipped, options)


def adapted(victim, module=r_adapt, **changes):
    options = module.Options(**{"cutoff": None} | changes)
    return module.load(module.fit(victim, None, options), victim, options)


def white():
    return torch.ones(1, 3, 32, 32)


def first_attention(model, images):
    trace = Trace()
    model.image(images, trace)
    return trace.first_attention


# The filter.


@pytest.mark.parametrize("cutoff", [2.0, 6.0, 32.0])
def test_the_filter_commutes_with_normalisation_and_leaves_white_alone(shipped, few, cutoff):
    clip, low_pass = shipped.staged.clip, r_adapt.low_pass(32, cutoff)
    before, after = normalise(clip, low_pass(few.images)), low_pass(normalise(clip, few.images))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    torch.testing.assert_close(low_pass(white()), white(), atol=1e-6, rtol=0)
    assert (low_pass(few.images) - few.images).abs().max() > 1e-2


@pytest.mark.parametrize(("size", "row", "column"), [(32, 3, 0), (32, 0, 16), (32, 5, 7), (33, 4, 2), (224, 40, 0)])
def test_a_wave_is_damped_by_the_gain_at_its_distance_from_zero_frequency(size, row, column):
    steps = torch.arange(size) * 2 * math.pi / size
    wave = torch.cos(row * steps[:, None] + column * steps).expand(1, 3, size, size)
    gain = math.exp(-(row**2 + column**2) / (2 * 40**2))
    torch.testing.assert_close(r_adapt.low_pass(size, 40.0)(wave), gain * wave, atol=1e-5, rtol=0)


def test_more_energy_passes_the_wider_the_filter(few):
    energies = [r_adapt.low_pass(32, cutoff)(few.images).square().sum().item() for cutoff in (1, 2, 4, 8, 16, 32)]
    assert energies == sorted(energies)
    assert energies[-1] < few.images.square().sum().item()


# The anchor.


def test_the_anchor_alone_reproduces_clip_on_a_white_image(shipped):
    assert torch.equal(adapted(shipped, alpha=1.0, beta=0.0).image(white()), shipped.image(white()))


def test_the_filter_changes_nothing_about_the_anchor(shipped):
    edits = adapted(shipped, alpha=0.0, beta=1.0, cutoff=6.0).image_edits
    filtered = first_attention(replace(shipped, image_edits=edits), white())[0]
    torch.testing.assert_close(filtered, r_adapt.white_anchor(shipped.staged), atol=1e-5, rtol=0)


def test_without_anchor_and_filter_nothing_changes(shipped, few):
    assert torch.equal(adapted(shipped, alpha=0.0, beta=1.0).image(few.images), shipped.image(few.images))


def test_a_fixed_attention_is_the_same_for_all_images_and_gradients_still_reach_them(shipped, few):
    model = adapted(shipped, alpha=1.2, beta=0.0)
    first = model.image_edits.attention[1](first_attention(shipped, few.images))
    assert torch.equal(first, (1.2 * r_adapt.white_anchor(shipped.staged)).expand_as(first))
    images = few.images.clone().requires_grad_()
    model.image(images).sum().backward()
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all()


def test_the_negative_weight_of_the_table_pushes_away_from_the_attention(shipped, few):
    options = r_adapt.Options()
    assert (options.alpha, options.beta, options.cutoff) == (1.2, -0.8, 40)
    own, anchor = first_attention(shipped, few.images), r_adapt.white_anchor(shipped.staged)
    edited = adapted(shipped, **options.model_dump() | {"cutoff": None}).image_edits.attention[1](own)
    torch.testing.assert_close(edited, 1.2 * anchor - 0.8 * own)


# Guided by a robust model.


def test_the_guided_anchor_is_the_robust_models_and_the_rest_is_clip(shipped, robust, few):
    model = adapted(robust, r_adapt_m, alpha=1.0, beta=0.0)
    assert model.staged is shipped.staged
    assert model.origin is None
    edited = model.image_edits.attention[1](first_attention(shipped, few.images))
    expected = first_attention(robust, white())[0]
    assert torch.equal(edited, expected.expand_as(edited))
    assert not torch.allclose(expected, r_adapt.white_anchor(shipped.staged), atol=1e-3)


def test_without_its_anchor_the_guided_model_is_clip_again(shipped, robust, few):
    assert torch.equal(adapted(robust, r_adapt_m, alpha=0.0, beta=1.0).image(few.images), shipped.image(few.images))


def test_filter_and_anchor_may_stay_on_the_robust_model(robust, few):
    model = adapted(robust, cutoff=6.0)
    assert model.staged is robust.staged
    assert not torch.equal(model.image(few.images), robust.image(few.images))


def test_an_anchor_needs_a_model_that_guides_it(shipped):
    with pytest.raises(UserError, match=r"robust model.*put one before it, such as 'tecoa\+r_adapt_m'"):
        adapted(shipped, r_adapt_m)


# Tuned on attacked images.


def test_the_anchor_is_tuned_on_images_attacked_without_the_defense(recording, few):
    options = r_adapt_plus.Options(**QUICK_PLUS | {"batch_size": 8})
    tensors = r_adapt_plus.fit(recording, few, options)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"anchor": (17, 128)}
    # Two attack steps on the victim, then one pass through filter and anchor for each epoch.
    attackers, tuned = recording.log[: options.attack_steps], recording.log[options.attack_steps :]
    assert all(model is recording for model, _ in attackers)
    assert all(model.image_edits.attention for model, _ in tuned)
    assert len(tuned) == options.epochs
    nearest = (tuned[0][1][:, None] - few.images[None]).flatten(2).abs().amax(dim=2).amin(dim=1)
    assert (nearest <= options.eps / 255 + 1e-6).all()
    assert (nearest > 0).all()


def test_online_attacks_go_through_filter_and_anchor(recording, few):
    r_adapt_plus.fit(
        recording, few, r_adapt_plus.Options(**QUICK_PLUS | {"batch_size": 8, "online": True, "epochs": 1})
    )
    assert len(recording.log) == QUICK_PLUS["attack_steps"] + 1
    assert all(model.image_edits.attention and model.image_edits.pixels for model, _ in recording.log)


@pytest.mark.parametrize("online", [False, True])
def test_tuning_lowers_the_loss_of_attacked_images(shipped, few, monkeypatch, online):
    history = []
    monkeypatch.setattr(r_adapt_plus, "tune", lambda *given: history.append(tune(*given)))
    options = r_adapt_plus.Options(**QUICK_PLUS | {"epochs": 10, "learning_rate": 0.01, "online": online})
    r_adapt_plus.fit(shipped, few, options)
    assert history[0][-1] < 0.8 * history[0][0]


def test_only_so_many_images_are_used(recording, few):
    options = r_adapt_plus.Options(**QUICK_PLUS | {"images": 3})
    r_adapt_plus.fit(recording, few, options)
    assert {len(images) for _, images in recording.log} == {3}
    assert r_adapt_plus.training_samples(few, options) == 3
    assert r_adapt_plus.training_samples(few, r_adapt_plus.Options()) == len(few.images)


def test_the_tuned_anchor_serves_other_classes(shipped, few):
    options = r_adapt_plus.Options(**QUICK_PLUS)
    model = r_adapt_plus.load(r_adapt_plus.fit(shipped, few, options), shipped, options)
    assert model.classifier(Task(("heart", "cross"), "a photo of a {}."))(few.images).shape == (8, 2)


def test_filter_and_anchor_are_seen_by_an_attack_on_the_defended_model(shipped, few):
    model = adapted(shipped, cutoff=6.0)
    texts, options = shipped.texts(few.task), r_adapt_plus.Options(attack_steps=1, eps=8.0, step=8.0)
    through, around = (
        attack_model(target, few.images, few.labels, texts, options, random_start=False) for target in (model, shipped)
    )
    assert not torch.equal(through, around)


# What is refused.


@pytest.mark.parametrize("module", [r_adapt, r_adapt_m, r_adapt_plus], ids=["r_adapt", "r_adapt_m", "r_adapt_plus"])
def test_cutoffs_that_are_none(module, robust, few):
    with pytest.raises(UserError, match=r"options: cutoff: .*greater than 0 \(given: 0\)"):
        parse(module.Options, {"cutoff": 0}, "benchmark.yaml: options")
    with pytest.raises(UserError, match="cutoff 40 is larger than the image of 32 pixels; lower it, or write null"):
        module.fit(robust, few, module.Options())


def test_other_edits_of_the_image_tower_are_refused_and_a_context_is_not(victim, few):
    options = rvpt.Options(epochs=1, length=2)
    with pytest.raises(UserError, match="r_adapt needs towers that no other defense has edited; here the image tower"):
        adapted(rvpt.load(rvpt.fit(victim, few, options), victim, options))
    worded_options = apt.Options(epochs=1, attack_steps=1, context=2)
    worded = apt.load(apt.fit(victim, few, worded_options), victim, worded_options)
    assert torch.equal(adapted(worded).texts(few.task), worded.texts(few.task))
