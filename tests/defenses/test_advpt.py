import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from bench.clip.staged import TextEdits
from bench.defenses import advpt

pytestmark = pytest.mark.usefixtures("seeded", "exact")


def settings(**changes):
    return advpt.Options(**{"epochs": 2, "context": 3, "attack_steps": 4, **changes})


def divergence(clean, moved):
    """KL between softmaxed embeddings, clean as the target, summed over images."""
    p, q = clean.softmax(dim=-1), moved.softmax(dim=-1)
    return (p * (p / q).log()).sum().item()


@pytest.mark.parametrize("eps", [1.0, 8.0])
def test_the_stored_attack_stays_in_its_ball(recording, few, eps):
    bank = advpt.adversarial_embeddings(recording, few.images, settings(eps=eps))
    clean, *candidates, attacked = [images for _, images in recording.log]
    assert torch.equal(clean, few.images)
    assert len(candidates) == 4
    for images in (*candidates, attacked):
        assert (images - few.images).abs().max() <= eps / 255 + 1e-6
        assert images.min() >= 0
        assert images.max() <= 1
    torch.testing.assert_close(bank, recording.staged.image(attacked))


def test_the_stored_attack_starts_at_random_and_steps_by_its_step(recording, few):
    advpt.adversarial_embeddings(recording, few.images, settings(eps=8.0))
    _, start, second, *_ = [images for _, images in recording.log]
    spread = (start - few.images)[(few.images > 0.1) & (few.images < 0.9)] * 255 / 8
    assert spread.min() < -0.9
    assert spread.max() > 0.9
    assert abs(spread.mean()) < 0.05
    assert (second - start).abs().max().item() == pytest.approx(1.25 * 8 / 255 / 4, abs=1e-6)


def test_the_stored_attack_raises_the_divergence_from_the_clean_embeddings(recording, few):
    bank = advpt.adversarial_embeddings(recording, few.images, settings(eps=8.0, attack_steps=10))
    clean, start = (recording.staged.image(images) for _, images in recording.log[:2])
    assert divergence(clean, bank) > 2 * divergence(clean, start)


def test_the_stored_attack_is_sign_ascent_of_the_divergence_of_softmaxed_embeddings(recording, few):
    advpt.adversarial_embeddings(recording, few.images, settings(eps=8.0, attack_steps=3))
    _, moved, _, _, attacked = [images for _, images in recording.log]
    eps, tower = 8 / 255, recording.staged.image
    p = tower(few.images).softmax(dim=-1)
    for _ in range(3):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad((p * (p.log() - tower(moved).softmax(dim=-1).log())).sum(), moved)
        moved = moved.detach() + 1.25 * eps / 3 * gradient.sign()
        moved = (few.images + (moved - few.images).clamp(-eps, eps)).clamp(0, 1)
    # Where a gradient is almost zero its sign depends on rounding.
    assert torch.isclose(attacked, moved, atol=1e-5).float().mean() > 0.99


def test_at_eps_0_it_is_coop_on_clean_embeddings(victim, few):
    options = settings(eps=0.0, epochs=3, batch_size=4, learning_rate=0.1)
    torch.manual_seed(1)
    tuned = advpt.fit(victim, few, options)["context"]

    torch.manual_seed(1)
    bank = advpt.adversarial_embeddings(victim, few.images, options)
    torch.testing.assert_close(bank, victim.image(few.images))
    embeddings = functional.normalize(bank, dim=-1)
    context = (0.02 * torch.randn(3, victim.staged.text_width)).requires_grad_()
    scale = victim.staged.clip.model.logit_scale.exp()
    sentences = [f"x x x {name}." for name in few.task.class_names]
    velocity = torch.zeros_like(context)
    for epoch in range(3):
        rate = 1e-5 if epoch == 0 else 0.05 * (1 + math.cos(math.pi * (epoch - 1) / 3))
        for rows in torch.randperm(8).split(4):
            texts = victim.staged.features_of(sentences, TextEdits(context=context))
            loss = functional.cross_entropy(scale * embeddings[rows] @ texts.T, few.labels[rows])
            (gradient,) = torch.autograd.grad(loss, context)
            velocity = 0.9 * velocity + gradient + 5e-4 * context.detach()
            context = (context.detach() - rate * velocity).requires_grad_()
    torch.testing.assert_close(tuned, context.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("epochs", [1, 5])
def test_the_image_tower_is_called_for_the_stored_attack_only(victim, few, epochs):
    calls = []
    handle = victim.staged.visual.conv1.register_forward_hook(lambda *_: calls.append(1))
    try:
        advpt.fit(victim, few, settings(epochs=epochs, attack_steps=4))
    finally:
        handle.remove()
    assert len(calls) == 1 + 4 + 1  # clean target, steps, result


def test_only_the_context_is_stored(victim, few):
    tensors = advpt.fit(victim, few, settings())
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {"context": (3, victim.staged.text_width)}


def test_the_loaded_model_changes_texts_and_not_images(victim, few):
    tensors = advpt.fit(victim, few, settings())
    defended = advpt.load(tensors, victim, settings())
    assert torch.equal(defended.image(few.images), victim.image(few.images))
    sentences = [f"x x x {name}." for name in few.task.class_names]
    expected = victim.staged.features_of(sentences, TextEdits(context=tensors["context"]))
    assert torch.equal(defended.texts(few.task), expected)


def test_training_fits_the_stored_embeddings_better(victim, few):
    def loss(epochs):
        torch.manual_seed(1)
        options = settings(epochs=epochs, learning_rate=0.1, eps=0.0)
        defended = advpt.load(advpt.fit(victim, few, options), victim, options)
        return functional.cross_entropy(defended.classifier(few.task)(few.images), few.labels).item()

    assert loss(30) < loss(1) - 0.02


def test_augmentation_is_refused_because_stored_embeddings_cannot_be_cropped():
    with pytest.raises(ValidationError, match="augment"):
        advpt.Options(augment=True)
