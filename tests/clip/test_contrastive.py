import math

import pytest
import torch
from torch import nn

from bench.clip.classifier import zero_shot
from bench.clip.contrastive import (
    ContrastiveOptions,
    contrastive_loss,
    cosine_with_warmup,
    parameter_groups,
    train_contrastive,
)
from bench.clip.model import build
from bench.clip.staged import StagedCLIP

pytestmark = pytest.mark.usefixtures("seeded")


def options(**changes):
    return ContrastiveOptions(**{"learning_rate": 0.01, "batch_size": 2, "warmup_steps": 2, **changes})


def batches(count):
    return [(torch.zeros(1),)] * count


def undecayed(model):
    """Names of biases, of norms' parameters and of the logit scale, found by type and not by name."""
    norms = {f"{name}." for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    return {
        name
        for name, _ in model.named_parameters()
        if name.endswith("bias") or name == "logit_scale" or any(name.startswith(norm) for norm in norms)
    }


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
def test_loss_of_matching_orthogonal_pairs(scale):
    embeddings = torch.eye(5)[:3]
    expected = math.log(math.exp(scale) + 2) - scale
    assert contrastive_loss(torch.tensor(scale), embeddings, embeddings).item() == pytest.approx(expected, abs=1e-6)


def test_loss_of_orthogonal_pairs_in_the_wrong_order():
    embeddings = torch.eye(3)
    expected = math.log(math.exp(2) + 2)
    loss = contrastive_loss(torch.tensor(2.0), embeddings, embeddings.roll(1, dims=0))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_loss_is_the_same_when_images_and_texts_change_places():
    images, texts = (nn.functional.normalize(torch.randn(6, 4), dim=-1) for _ in range(2))
    scale = torch.tensor(8.0)
    assert torch.isclose(contrastive_loss(scale, images, texts), contrastive_loss(scale, texts, images))


def test_biases_norms_and_the_logit_scale_are_not_decayed():
    model = build("mini").model
    decayed, free = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)] for parameter in free["params"]} == undecayed(model)
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_frozen_parameters_are_in_no_group():
    model = build("mini").model
    model.visual.requires_grad_(False)
    parameters = [parameter for group in parameter_groups(model, 0.1) for parameter in group["params"]]
    expected = [parameter for name, parameter in model.named_parameters() if not name.startswith("visual.")]
    assert {id(parameter) for parameter in parameters} == {id(parameter) for parameter in expected}


def test_training_shrinks_only_what_is_decayed():
    model = build("mini").model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train_contrastive(
        model, batches(1), lambda _: 0 * sum(p.sum() for p in model.parameters()), options(warmup_steps=0), 1
    )
    free = undecayed(model)
    for name, parameter in model.named_parameters():
        factor = 1.0 if name in free else 1 - 0.01 * 0.1
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_schedule_at_its_corners():
    assert cosine_with_warmup(0, 200, 50) == pytest.approx(1 / 50)
    assert cosine_with_warmup(24, 200, 50) == pytest.approx(1 / 2)
    assert cosine_with_warmup(49, 200, 50) == 1.0
    assert cosine_with_warmup(50, 200, 50) == 1.0
    assert cosine_with_warmup(125, 200, 50) == pytest.approx(1 / 2)
    assert cosine_with_warmup(200, 200, 50) == pytest.approx(0)


def test_schedule_without_warmup_starts_at_the_full_rate():
    assert cosine_with_warmup(0, 200, 0) == 1.0


def test_schedule_is_defined_where_the_warmup_is_longer_than_the_training():
    assert [cosine_with_warmup(step, 3, 50) for step in range(3)] == pytest.approx([0.02, 0.04, 0.06])


def test_training_follows_the_schedule_step_by_step():
    # Under a constant gradient AdamW moves a parameter by the learning rate at each step.
    model, seen = build("mini").model, []

    def loss(_):
        seen.append(model.logit_scale.item())
        return model.logit_scale * 1.0

    train_contrastive(model, batches(8), loss, options(), 8)
    moves = [before - after for before, after in zip(seen, [*seen[1:], model.logit_scale.item()], strict=True)]
    assert moves == pytest.approx([0.01 * cosine_with_warmup(step, 8, 2) for step in range(8)], abs=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_fix(bad):
    model, values = build("mini").model, iter([1.0, bad, 1.0])
    message = rf"{bad} at step 2 of 3; lower learning_rate \(now 0.01\) or raise warmup_steps \(now 2\)"
    with pytest.raises(FloatingPointError, match=message):
        train_contrastive(model, batches(3), lambda _: model.logit_scale * next(values), options(), 3)
    assert next(values) == 1.0
    assert model.logit_scale.isfinite()


@pytest.mark.parametrize(("sign", "start", "limit"), [(-1, 99.5, 100.0), (1, 1.005, 1.0)])
def test_the_logit_scale_stays_between_1_and_100(sign, start, limit):
    model, seen = build("mini").model, []
    with torch.no_grad():
        model.logit_scale.fill_(math.log(start))

    def loss(_):
        seen.append(model.logit_scale.exp().item())
        return sign * model.logit_scale

    train_contrastive(model, batches(3), loss, options(warmup_steps=0), 3)
    assert [*seen[1:], model.logit_scale.exp().item()] == pytest.approx([limit] * 3, abs=1e-3)


def test_training_runs_in_training_mode_and_ends_in_evaluation_mode():
    model, modes = build("mini").model, []

    def loss(_):
        modes.append(model.training)
        return model.logit_scale * 1.0

    train_contrastive(model, batches(1), loss, options(), 1)
    assert modes == [True]
    assert not model.training


def test_a_model_that_was_measured_before_can_be_trained_afterwards():
    clip = build("mini")
    zero_shot(StagedCLIP(clip), ["circle", "star"], "a photo of a {}.")
    before = clip.model.text_projection.detach().clone()
    ids = clip.tokenize(["a circle.", "a star."])
    train_contrastive(clip.model, batches(1), lambda _: clip.model.encode_text(ids).sum(), options(), 1)
    assert not torch.equal(clip.model.text_projection, before)
