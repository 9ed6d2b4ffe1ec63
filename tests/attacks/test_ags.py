from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks import ags
from bench.attacks.contract import Knowledge

from .models import Linear, cnn, images_of

SIDE = 6


def run(substitute: nn.Module, images: Tensor, **options: object) -> Tensor:
    return ags.attack(
        substitute, images, torch.zeros(len(images), dtype=torch.long), options=ags.Options(**options),
        seeds=range(len(images)), knowledge=Knowledge(surrogates=(substitute,)),
    ).images  # fmt: skip


def turned(substitute: nn.Module, images: Tensor, other: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(substitute(images).flatten(1), substitute(other).flatten(1))


def features() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).requires_grad_(False)


def test_it_equals_the_official_loop() -> None:
    substitute, images = features(), images_of(4, SIDE)
    eps, alpha, momentum = 8 / 255, 1 / 255, torch.zeros_like(images)
    clean = substitute(images).flatten(1)
    x = run(substitute, images, eps=8, steps=0)
    for _ in range(12):
        x = x.detach().requires_grad_()
        (1 - functional.cosine_similarity(substitute(x).flatten(1), clean)).sum().backward()
        assert x.grad is not None
        grad = x.grad / torch.mean(torch.abs(x.grad), dim=(1, 2, 3), keepdim=True)
        momentum = grad + momentum * 1.0
        x = x.detach() + alpha * momentum.sign()
        x = torch.clamp(images + torch.clamp(x - images, min=-eps, max=eps), min=0, max=1)
    torch.testing.assert_close(run(substitute, images, eps=8, steps=12), x, rtol=0, atol=1e-6)


def test_features_turn_further_with_steps_and_with_eps() -> None:
    substitute, images = features(), images_of(16, SIDE)
    by_steps = [turned(substitute, images, run(substitute, images, eps=8, steps=steps)) for steps in (0, 4, 16)]
    assert (by_steps[0] < by_steps[1]).all()
    assert (by_steps[1] <= by_steps[2] + 1e-4).all()
    by_eps = [turned(substitute, images, run(substitute, images, eps=eps, steps=16)) for eps in (1, 2, 4, 8)]
    assert all((less < more).all() for less, more in pairwise(by_eps))


def test_two_features_of_a_linear_substitute_turn_as_far_as_they_can() -> None:
    # The angle between (a, b) and (a', b') grows with a up and b down, or the other way round: both are corners.
    signs = torch.linspace(-1, 1, 3 * SIDE**2).sign()
    substitute = Linear(torch.stack([signs, -signs]) * 0.01, torch.tensor([1.0, 1.0]))
    images = images_of(5, SIDE, low=0.1, high=0.9)
    change = ((run(substitute, images, eps=2, steps=20) - images) * 255 / 2).flatten(1) * signs
    torch.testing.assert_close(change, change[:, :1].sign().expand_as(change), rtol=0, atol=1e-4)


def test_neither_labels_nor_the_number_of_classes_play_a_part() -> None:
    substitute, images = cnn(16, SIDE), images_of(3, SIDE)
    first, second = (
        ags.attack(
            substitute, images, labels, options=ags.Options(eps=4, steps=3), seeds=range(3), knowledge=Knowledge()
        ).images
        for labels in (torch.tensor([0, 0, 0]), torch.tensor([999, -1, 5]))
    )
    assert torch.equal(first, second)
