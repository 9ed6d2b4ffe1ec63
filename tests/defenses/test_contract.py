"""What every defense promises, whatever it does."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.clip.defended import Task
from bench.clip.model import weights_hash
from bench.defenses import (
    advmaple,
    advpt,
    advpt_v,
    advpt_vli,
    advpt_vlj,
    advvlp,
    advvp,
    apt,
    cba_fapt,
    cleanclip,
    fap,
    fare,
    linear_probe,
    nap_tuning,
    none,
    r_adapt,
    r_adapt_plus,
    rvpt,
    supervised,
    tecoa,
    tga,
    vpt,
)
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("seeded", "exact")

QUICK = {
    none: {},
    linear_probe: {"epochs": 2},
    rvpt: {"epochs": 2, "length": 3},
    vpt: {"epochs": 2, "length": 3},
    supervised: {"epochs": 1},
    advpt: {"epochs": 2, "context": 3, "attack_steps": 2},
    nap_tuning: {"epochs": 2, "length": 3, "attack_steps": 1},
    cleanclip: {"epochs": 1, "warmup_steps": 0, "learning_rate": 1e-4},
    **{module: {"epochs": 2, "attack_steps": 1} for module in (advpt_v, advpt_vli, advpt_vlj, advvlp, advmaple)},
    **{module: {"epochs": 2, "attack_steps": 1} for module in (fap, cba_fapt)},
    apt: {"epochs": 2, "attack_steps": 1, "context": 3},
    advvp: {"epochs": 2, "attack_steps": 1, "pad": 4},
    **{module: {"epochs": 1, "attack_steps": 1, "warmup_steps": 0} for module in (tecoa, fare, tga)},
    r_adapt: {"cutoff": 6},
    r_adapt_plus: {"epochs": 1, "attack_steps": 1, "cutoff": 6},
}
TOWERS = [tecoa, fare, tga, r_adapt, r_adapt_plus]
EDITS_THE_IMAGE_TOWER = [rvpt, nap_tuning, advpt_v, advpt_vli, advpt_vlj, advvlp, advmaple, fap, cba_fapt, advvp]
EDITS_THE_TEXT_TOWER = [advpt, apt, nap_tuning, advpt_vli, advpt_vlj, advvlp, advmaple, fap, cba_fapt]


def each(modules):
    return pytest.mark.parametrize("module", modules, ids=lambda module: module.__name__.rsplit(".", 1)[-1])


EVERY = each(QUICK)


def fit(module, victim, few, pairs):
    torch.manual_seed(1)
    options = module.Options(**QUICK[module])
    data = {"labels": few, "pairs": pairs, "nothing": None}[module.TUNES_ON]
    return module.fit(victim, data, options), options


@EVERY
def test_fit_changes_neither_the_victims_weights_nor_which_of_them_are_frozen(module, victim, few, pairs):
    model = victim.staged.clip.model
    before, frozen = weights_hash(model), [parameter.requires_grad for parameter in model.parameters()]
    fit(module, victim, few, pairs)
    assert weights_hash(model) == before
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen
    assert all(parameter.grad is None for parameter in model.parameters())


@EVERY
def test_the_same_seed_gives_the_same_tensors(module, victim, few, pairs):
    (first, _), (again, _) = (fit(module, victim, few, pairs) for _ in range(2))
    assert first.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


@EVERY
def test_what_fit_returns_survives_a_safetensors_file(module, victim, few, pairs, tmp_path):
    tensors, options = fit(module, victim, few, pairs)
    assert not any(tensor.requires_grad for tensor in tensors.values())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "part.safetensors")
    direct = module.load(tensors, victim, options).classifier(few.task)(few.images)
    stored = module.load(load_file(tmp_path / "part.safetensors"), victim, options).classifier(few.task)(few.images)
    assert torch.equal(stored, direct)


@EVERY
def test_defended_logits_differ_from_the_victims_and_let_gradients_through(module, victim, few, pairs):
    tensors, options = fit(module, victim, few, pairs)
    images = few.images.clone().requires_grad_()
    logits = module.load(tensors, victim, options).classifier(few.task)(images)
    logits.logsumexp(dim=1).sum().backward()
    assert torch.equal(logits, victim.classifier(few.task)(few.images)) == (module is none)
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all()


# Joining defenses with "+".


@EVERY
def test_the_loaded_model_is_frozen_for_the_next_defense(module, victim, few, pairs):
    tensors, options = fit(module, victim, few, pairs)
    defended = module.load(tensors, victim, options)
    assert not any(parameter.requires_grad for parameter in defended.staged.clip.model.parameters())


def test_rvpt_after_cleanclip_computes_gradients_of_its_prompts_only(victim, few, pairs):
    tensors, options = fit(cleanclip, victim, few, pairs)
    cleaned = cleanclip.load(tensors, victim, options)
    fit(rvpt, cleaned, few, pairs)
    assert all(parameter.grad is None for parameter in cleaned.staged.clip.model.parameters())


def test_a_probe_may_follow_prompts(victim, few, pairs):
    tensors, options = fit(rvpt, victim, few, pairs)
    prompted = rvpt.load(tensors, victim, options)
    head, probe_options = fit(linear_probe, prompted, few, pairs)
    both = linear_probe.load(head, prompted, probe_options)
    expected = prompted.image(few.images) @ head["weight"].T + head["bias"]
    torch.testing.assert_close(both.classifier(few.task)(few.images), expected, atol=1e-4, rtol=1e-4)


@each([*EDITS_THE_IMAGE_TOWER, *TOWERS])
def test_fit_refuses_an_image_tower_that_is_edited_already(module, victim, few, pairs):
    tensors, options = fit(rvpt, victim, few, pairs)
    with pytest.raises(UserError, match="no other defense has"):
        fit(module, rvpt.load(tensors, victim, options), few, pairs)


@each(EDITS_THE_TEXT_TOWER)
def test_load_refuses_a_text_tower_that_is_edited_already(module, victim, few, pairs):
    edited = apt.load(*reordered(fit(apt, victim, few, pairs), victim))
    tensors, options = fit(module, victim, few, pairs)
    with pytest.raises(UserError, match="no other defense has"):
        module.load(tensors, edited, options)


@each([advpt_v, advvp])
def test_visual_prompts_may_follow_a_tuned_context(module, victim, few, pairs):
    worded = apt.load(*reordered(fit(apt, victim, few, pairs), victim))
    both = module.load(*reordered(fit(module, worded, few, pairs), worded))
    assert torch.equal(both.texts(few.task), worded.texts(few.task))
    assert not torch.equal(both.image(few.images), worded.image(few.images))


@each([advpt, apt])
def test_a_context_may_follow_visual_prompts(module, victim, few, pairs):
    prompted = advpt_v.load(*reordered(fit(advpt_v, victim, few, pairs), victim))
    both = module.load(*reordered(fit(module, prompted, few, pairs), prompted))
    assert torch.equal(both.image(few.images), prompted.image(few.images))
    assert not torch.equal(both.texts(few.task), prompted.texts(few.task))


@each([module for module in QUICK if module not in (linear_probe, supervised)])
def test_other_classes_can_be_named_than_those_tuned_on(module, victim, few, pairs):
    defended = module.load(*reordered(fit(module, victim, few, pairs), victim))
    others = Task(("heart", "arrow", "cross", "digit three", "hourglass"), "a photo of a {}.")
    together = defended.classifier(others)(few.images)
    assert together.shape == (len(few.images), 5)
    # A class's logit does not depend on the classes beside it.
    alone = defended.classifier(others._replace(class_names=others.class_names[3:4]))(few.images)
    torch.testing.assert_close(together[:, 3:4], alone, atol=1e-4, rtol=1e-4)


@each(sorted({*EDITS_THE_IMAGE_TOWER, *EDITS_THE_TEXT_TOWER}, key=lambda module: module.__name__))
def test_prompts_refuse_a_model_that_ends_in_a_head(module, victim, few, pairs):
    probed = linear_probe.load(*reordered(fit(linear_probe, victim, few, pairs), victim))
    tensors, options = fit(module, victim, few, pairs)
    with pytest.raises(UserError, match="head"):
        module.load(tensors, probed, options)


def reordered(fitted, victim):
    tensors, options = fitted
    return tensors, victim, options
