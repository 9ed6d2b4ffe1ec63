from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks import feature_attack
from bench.attacks.contract import Knowledge
from bench.attacks.pgd import starts_in_ball
from bench.clip.defended import DefendedCLIP
from bench.defenses import advpt

from .models import Linear, cnn, images_of

SIDE = 6


def run(encoder: nn.Module | None, images: Tensor, **options: object) -> Tensor:
    return feature_attack.attack(
        nn.Identity(), images, torch.zeros(len(images), dtype=torch.long),
        options=feature_attack.Options(**options), seeds=range(len(images)), knowledge=Knowledge(encoder=encoder),
    ).images  # fmt: skip


def divergences(encoder: nn.Module, images: Tensor, other: Tensor) -> Tensor:
    clean, moved = (functional.softmax(encoder(each).double(), dim=-1) for each in (images, other))
    return (clean * (clean.log() - moved.log())).sum(dim=-1)


def test_it_equals_the_official_loop() -> None:
    encoder, images = cnn(16, SIDE), images_of(4, SIDE)
    (start,) = starts_in_ball(images, 4 / 255, range(4), low=0.0)
    x, clean = start, functional.softmax(encoder(images), dim=-1)
    for _ in range(10):
        x = x.detach().requires_grad_()
        loss = functional.kl_div(functional.log_softmax(encoder(x), dim=-1), clean, reduction="batchmean")
        (gradient,) = torch.autograd.grad(loss, x)
        x = x.detach() + 1.25 * 4 / 255 / 10 * gradient.sign()
        x = (images + (x - images).clamp(-4 / 255, 4 / 255)).clamp(0, 1)
    ours = run(encoder, images, eps=4, steps=10, start="one_sided")
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-6)
    assert ((start - images) > -1e-6).all(), "the official noise has one sign"


def test_embeddings_move_and_the_divergence_grows_with_the_ball() -> None:
    encoder, images = cnn(16, SIDE), images_of(16, SIDE)
    found = [divergences(encoder, images, run(encoder, images, eps=eps, steps=10)) for eps in (0, 1, 2, 4)]
    assert found[0].abs().max() < 1e-9
    assert all((more > less).all() for less, more in pairwise(found))


def test_two_embeddings_of_a_linear_encoder_are_pulled_apart_by_every_pixel() -> None:
    # With two outputs the divergence grows with the change of their difference, so each pixel goes one way throughout.
    lead = torch.linspace(-1, 1, 3 * SIDE**2).sign() * 0.01
    encoder, images = Linear(torch.stack([lead, -lead])), images_of(5, SIDE, low=0.1, high=0.9)
    (start,) = starts_in_ball(images, 2 / 255, range(5))
    ways = ((run(encoder, images, eps=2, steps=20) - start).flatten(1) * lead).sign()
    assert (ways == ways[:, :1]).all()
    assert (ways != 0).all()


def test_labels_are_not_used_and_a_clip_is_needed() -> None:
    encoder, images = cnn(16, SIDE), images_of(2, SIDE)
    options, seeds = feature_attack.Options(eps=2, steps=3), range(2)
    first, second = (
        feature_attack.attack(
            nn.Identity(), images, labels, options=options, seeds=seeds, knowledge=Knowledge(encoder=encoder)
        ).images
        for labels in (torch.tensor([0, 0]), torch.tensor([1, 2]))
    )
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="image embeddings of a CLIP"):
        run(None, images)


def test_advpt_tunes_on_the_same_attack(victim: DefendedCLIP, few, seeded: None) -> None:
    options = advpt.Options(eps=4, attack_steps=3)
    torch.manual_seed(5)
    bank = advpt.adversarial_embeddings(victim, few.images, options)
    torch.manual_seed(5)
    start = (few.images + torch.empty_like(few.images).uniform_(-4 / 255, 4 / 255)).clamp(0, 1)

    class Encoder(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return victim.image(images)

    attacked = feature_attack.raise_divergence(Encoder(), few.images, start, 4 / 255, 3)
    torch.testing.assert_close(bank, victim.image(attacked), rtol=0, atol=1e-6)
