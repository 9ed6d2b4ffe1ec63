"""Attacks by transfer, on handwritten digits: what they do to networks whose architectures the attacker never saw."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks import ags, cwa, pgd
from bench.attacks.contract import Knowledge
from bench.evaluation.adversary import Mean
from bench.surrogates.ags import Options, adversarial_views, nt_xent_3

TRAIN, TEST, EPS = 1200, 300, 40


class Digits(NamedTuple):
    """The digits at 8x8 pixels in three equal channels, and networks of other architectures trained on them."""

    train: Tensor
    images: Tensor
    labels: Tensor
    surrogates: tuple[nn.Module, ...]
    held_out: tuple[nn.Module, ...]

    def right(self, images: Tensor) -> float:
        """Accuracy on ``images``, mean over the networks that were held out."""
        return torch.stack([net(images).argmax(dim=1) == self.labels for net in self.held_out]).float().mean().item()


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10))


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def wide() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(384, 10),
    )  # fmt: skip


def deep() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def fit(net: nn.Module, loss: Callable[[Tensor], Tensor], epochs: int) -> list[float]:
    """Train on ``loss`` of a batch's rows; returns the losses."""
    optimizer, losses = torch.optim.Adam(net.parameters(), 3e-3), list[float]()
    for rows in (rows for _ in range(epochs) for rows in torch.randperm(TRAIN).split(64)):
        optimizer.zero_grad()
        value = loss(rows)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    net.eval().requires_grad_(False)
    return losses


@pytest.fixture(scope="module")
def digits() -> Digits:
    known = load_digits()
    images = torch.tensor(known.images / 16, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1).contiguous()
    labels = torch.tensor(known.target)

    def trained(make: Callable[[], nn.Module]) -> nn.Module:
        net = make()
        fit(net, lambda rows: functional.cross_entropy(net(images[rows]), labels[rows]), epochs=8)
        return net

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        surrogates = trained(convolutional), trained(dense), trained(pooled)
        held_out = trained(wide), trained(deep)
    test = slice(TRAIN, TRAIN + TEST)
    return Digits(images[:TRAIN], images[test], labels[test], surrogates, held_out)


@pytest.fixture(scope="module")
def noisy(digits: Digits) -> Tensor:
    """Every pixel at one end of the ball, at random."""
    signs = torch.randn(digits.images.shape, generator=torch.Generator().manual_seed(0)).sign()
    return (digits.images + EPS / 255 * signs).clamp(0, 1)


def test_cwa_carries_further_than_pgd_on_any_one_of_its_surrogates(digits: Digits, noisy: Tensor) -> None:
    _, _, labels, surrogates, _ = digits
    ours = cwa.attack(
        Mean(surrogates), digits.images, labels, options=cwa.Options(eps=EPS), seeds=range(TEST),
        knowledge=Knowledge(surrogates=surrogates),
    ).images  # fmt: skip
    options = pgd.Options(eps=EPS, step=EPS / 10, steps=100)
    theirs = [
        pgd.attack(each, digits.images, labels, options=options, seeds=range(TEST), knowledge=Knowledge()).images
        for each in surrogates
    ]
    assert digits.right(ours) < min(digits.right(each) for each in theirs) - 0.02
    assert digits.right(ours) < 2 / 3 * digits.right(noisy)


def test_ags_needs_a_trained_substitute_and_no_label(
    digits: Digits, noisy: Tensor, substitutes: tuple[nn.Module, nn.Module]
) -> None:
    trained, untrained = (
        ags.attack(
            substitute, digits.images, torch.zeros(TEST, dtype=torch.long),
            options=ags.Options(eps=EPS, step=1, steps=100), seeds=range(TEST), knowledge=Knowledge(),
        ).images
        for substitute in substitutes
    )  # fmt: skip
    assert digits.right(trained) < min(digits.right(each) for each in (untrained, noisy)) - 0.04


@pytest.fixture(scope="module")
def substitutes(digits: Digits) -> tuple[nn.Module, nn.Module]:
    """A convolutional trunk trained without labels on the recipe's losses and adversarial views, and a fresh one."""

    def build() -> nn.Sequential:
        trunk = nn.Sequential(*list(convolutional().children())[:5])
        return nn.Sequential(trunk, nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 32))

    def view(images: Tensor) -> Tensor:
        moved = images.roll(torch.randint(-1, 2, (2,)).tolist(), (2, 3))
        return (moved * (0.6 + 0.8 * torch.rand(len(images), 1, 1, 1)) + 0.1 * torch.randn(images.shape)).clamp(0, 1)

    def loss(rows: Tensor) -> Tensor:
        images = digits.train[rows]
        views = view(images), view(images)
        outputs = (*views, adversarial_views(net, views, images, options))
        return nt_xent_3(*(functional.normalize(net(each), dim=1) for each in outputs), options.temperature)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, fresh, options = build(), build(), Options()
        losses = fit(net, loss, epochs=6)
    assert losses[-1] < losses[0] - 0.5
    return net[0], fresh[0].eval().requires_grad_(False)
