import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from bench.clip.staged import TextEdits
from bench.defenses.adversarial import AttackOptions, adversarial_loss, attack_model, divergence_from, perturb

pytestmark = pytest.mark.usefixtures("seeded", "exact")


def settings(**changes):
    return AttackOptions(**{"learning_rate": 0.1, "epochs": 1, **changes})


def cross_entropy(model, few, images):
    return functional.cross_entropy(model.classifier(few.task)(images), few.labels)


def test_steps_are_as_long_as_the_radius_unless_given():
    assert settings(eps=3.0).step_size == 3
    assert settings(eps=3.0, step=0.5).step_size == 0.5
    with pytest.raises(ValidationError, match="eps"):
        settings(eps=-1.0)


@pytest.mark.parametrize("random_start", [True, False])
def test_perturbed_images_stay_in_the_ball_and_in_range(few, random_start):
    options = settings(eps=8.0, step=5.0, attack_steps=3)
    moved = perturb(lambda images: (images * few.images).sum(), few.images, options, random_start=random_start)
    assert 4 / 255 < (moved - few.images).abs().max() <= 8 / 255 + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert not moved.requires_grad


def test_without_steps_only_a_random_start_moves_the_images(few):
    options = settings(eps=8.0, attack_steps=0)
    assert torch.equal(perturb(torch.sum, few.images, options, random_start=False), few.images)
    spread = (perturb(torch.sum, few.images, options) - few.images)[(few.images > 0.1) & (few.images < 0.9)] * 255 / 8
    assert (spread.min() < -0.9, spread.max() > 0.9, abs(spread.mean()) < 0.05) == (True, True, True)


def test_the_divergence_is_that_of_the_attacked_from_the_clean_prediction(victim, few):
    logits = victim.classifier(few.task)
    attacked = (few.images + 0.1 * torch.randn_like(few.images)).clamp(0, 1)
    p, q = logits(few.images).softmax(dim=-1), logits(attacked).softmax(dim=-1)
    value = divergence_from(few.images, logits)(attacked)
    assert value.item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-3)
    assert value.item() != pytest.approx((q * (q / p).log()).sum().item(), rel=1e-2)


def test_the_divergence_has_no_gradient_at_the_clean_images(victim, few):
    images = few.images.clone().requires_grad_()
    value = divergence_from(few.images, victim.classifier(few.task))(images)
    (gradient,) = torch.autograd.grad(value, images)
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert gradient.abs().max() < 1e-4


@pytest.mark.parametrize("raised", ["ce", "kl"])
def test_attacks_raise_what_they_should(victim, few, raised):
    options = settings(eps=8.0, step=2.0, attack_steps=5)
    attacked = attack_model(victim, few.images, few.labels, victim.texts(few.task), options, raised)
    if raised == "ce":
        assert cross_entropy(victim, few, attacked) > cross_entropy(victim, few, few.images)
    else:
        divergence = divergence_from(few.images, victim.classifier(few.task))
        noise = (few.images + torch.empty_like(few.images).uniform_(-8 / 255, 8 / 255)).clamp(0, 1)
        assert divergence(attacked) > 2 * divergence(noise)


def test_no_gradient_of_the_attack_reaches_a_parameter(victim, few):
    context = torch.randn(3, victim.staged.text_width).requires_grad_()
    texts = victim.staged.features_of(["x x x circle."] * 4, TextEdits(context=context))
    attack_model(victim, few.images, few.labels, texts, settings())
    assert context.grad is None
    texts.sum().backward()  # The graph of the texts is still whole.
    assert context.grad.abs().sum() > 0


@pytest.mark.parametrize("clean", [0, 4, 8])
def test_the_loss_is_over_clean_and_attacked_images_with_their_own_labels(recording, few, clean):
    images, labels = few.images[torch.arange(8)], torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    texts = recording.texts(few.task)
    value = adversarial_loss(recording, images, labels, texts, settings(eps=8.0), clean)
    seen = recording.log[-1][1]
    assert torch.equal(seen[:clean], images[:clean])
    changed = (seen - images).abs().flatten(1).amax(dim=1) * 255
    assert all(change > 4 for change in changed[clean:])
    assert changed.max() <= 8 + 1e-3
    assert value.item() == pytest.approx(functional.cross_entropy(recording.logits(seen, texts), labels).item())
