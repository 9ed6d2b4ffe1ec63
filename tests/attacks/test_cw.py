import pytest
import torch
import torchattacks
from torch import Tensor, nn

from bench.attacks import cw, pgd
from bench.attacks.contract import Knowledge

from .models import Linear, cnn, images_of, random_linear, verdicts

SIDE = 6


def run(model: nn.Module, images: Tensor, labels: Tensor, **options: object) -> Tensor:
    result = cw.attack(
        model, images, labels, options=cw.Options(**options), seeds=range(len(images)), knowledge=Knowledge()
    )
    return result.images


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return cnn(5, SIDE)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return images_of(8, SIDE, low=0.05, high=0.95)


@pytest.fixture(scope="module")
def labels(network: nn.Module, images: Tensor) -> Tensor:
    return network(images).argmax(dim=1)


class Shifted(nn.Module):
    """Adds a constant to all logits, which changes no prediction."""

    def __init__(self, model: nn.Module, by: float) -> None:
        super().__init__()
        self.model, self.by = model, by

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) + self.by


def test_margins_are_those_of_the_definition() -> None:
    logits = torch.tensor([[3.0, 1.0, -2.0], [-5.0, -4.0, -9.0], [2.0, 2.0, 0.0]])
    assert cw.margins(logits, torch.tensor([0, 0, 1])).tolist() == [2.0, -1.0, 0.0]


def test_the_margin_form_equals_the_loop_of_tecoa_and_ttc(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    eps, step = 4 / 255, 1 / 255
    change, mask = torch.zeros_like(images), 1e4 * torch.nn.functional.one_hot(labels, 5)
    for _ in range(10):
        change.requires_grad_()
        logits = network(images + change)
        true, wrong = logits.gather(1, labels[:, None])[:, 0], (logits - mask).amax(dim=1)
        (gradient,) = torch.autograd.grad(-torch.relu(true - wrong + 50).sum(), change)
        change = (change.detach() + step * gradient.sign()).clamp(-eps, eps)
        change = torch.min(torch.max(change, -images), 1 - images)
    ours = run(network, images, labels, eps=4, step=1, steps=10, random_start=False)
    torch.testing.assert_close(ours, images + change, rtol=0, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 12])
def test_the_margin_of_a_linear_model_falls_to_its_least_value(classes: int) -> None:
    # One class leads the true one along fixed signs in every pixel, so the optimum is a corner of the ball.
    model, images = random_linear(classes, SIDE), images_of(6, SIDE, low=0.1, high=0.9)
    labels = model(images).argmax(dim=1)
    found = run(model, images, labels, eps=1, step=0.25, steps=40, random_start=False)
    margins = cw.margins(model(found), labels)
    least = model.worst_margins(images, labels, 1 / 255)
    assert (margins >= least - 1e-4).all()
    if classes == 2:
        torch.testing.assert_close(margins, least, rtol=0, atol=1e-4)
    assert (margins < cw.margins(model(images), labels)).all()


def test_it_is_as_strong_as_pgd_of_the_same_size(network: nn.Module) -> None:
    many = images_of(64, SIDE)
    truth = network(many).argmax(dim=1)
    other = pgd.attack(
        network, many, truth, options=pgd.Options(eps=3, steps=30), seeds=range(64), knowledge=Knowledge()
    )
    robust = [
        sum(verdicts(network, found, truth)) for found in (run(network, many, truth, eps=3, steps=30), other.images)
    ]
    assert abs(robust[0] - robust[1]) <= 3
    assert 0 < robust[0] < 64


def test_kappa_stops_a_margin_that_is_low_enough() -> None:
    model, images = Linear(torch.stack([torch.ones(108), -torch.ones(108)])), torch.full((1, 3, SIDE, SIDE), 0.01)
    label, model.bias.data[0] = torch.tensor([0]), -1.0
    stopped = run(model, images, label, eps=16, step=1, steps=16, random_start=False, kappa=0.0)
    torch.testing.assert_close(stopped, images - 2 / 255, rtol=0, atol=1e-6)
    pushed = run(model, images, label, eps=16, step=1, steps=16, random_start=False)
    assert pushed.max() == 0


@pytest.mark.parametrize("c", [1.0, 0.2])
def test_the_l2_form_equals_torchattacks_on_single_images(
    network: nn.Module, images: Tensor, labels: Tensor, c: float
) -> None:
    # torchattacks masks the true class with 0, which is right only where the others are not all negative.
    above = Shifted(network, 10.0)
    reference = torchattacks.CW(above, c=c, kappa=0, steps=60, lr=0.01)
    ours = run(above, images, labels, norm="l2", c=c, steps=60)
    theirs = torch.cat([reference(images[row : row + 1], labels[row : row + 1]) for row in range(8)])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    moved = (ours != images).flatten(1).any(dim=1)
    assert moved.any()
    assert verdicts(above, ours, labels) == (~moved).tolist(), "an image is changed if and only if that makes it wrong"


def test_a_constant_added_to_all_logits_changes_nothing_here_and_breaks_torchattacks(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    plain, shifted = (run(Shifted(network, by), images, labels, norm="l2", steps=60) for by in (0.0, -1000.0))
    found = [verdicts(network, each, labels) for each in (plain, shifted)]
    assert found[0] == found[1]
    assert not all(found[0])
    theirs = torchattacks.CW(Shifted(network, -1000.0), steps=60)(images, labels)
    assert all(verdicts(network, theirs, labels))
    margin = {by: run(Shifted(network, by), images, labels, eps=4, random_start=False, steps=5) for by in (0.0, -64.0)}
    assert verdicts(network, margin[0.0], labels) == verdicts(network, margin[-64.0], labels)


def test_pixels_at_the_walls_move_here_and_never_in_torchattacks() -> None:
    model, label = random_linear(3, SIDE), torch.tensor([0])
    walls = (images_of(1, SIDE) > 0.5).float()
    model.bias.data = -model(walls)[0] + torch.tensor([0.3, 0.0, 0.0])
    ours = run(model, walls, label, norm="l2", c=10.0, steps=200, learning_rate=0.1)
    assert not verdicts(model, ours, label)[0]
    theirs = torchattacks.CW(model, c=10, steps=200, lr=0.1)(walls, label)
    assert torch.equal(theirs, walls)


def test_the_clipped_form_is_the_l2_change_cut_to_the_ball(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    free = run(network, images, labels, norm="l2", steps=60)
    clipped = run(network, images, labels, norm="l2_clipped", eps=2, steps=60)
    assert (free - images).abs().max() > 2 / 255
    torch.testing.assert_close(clipped, images + (free - images).clamp(-2 / 255, 2 / 255), rtol=0, atol=1e-7)


def test_only_the_l2_form_is_without_a_bound(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    def bound(norm: str) -> float | None:
        options = cw.Options(norm=norm, eps=2, steps=1)
        return cw.attack(network, images, labels, options=options, seeds=range(8), knowledge=Knowledge()).eps

    assert (bound("linf"), bound("l2"), bound("l2_clipped")) == (2 / 255, None, 2 / 255)
