import pytest
import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks import pgd
from bench.attacks.contract import Knowledge

from .models import Linear, cnn, images_of, rows_of, verdicts

SIDE = 8


def run(model: nn.Module, images: Tensor, labels: Tensor, seeds: list[int] | range, **options: float) -> Tensor:
    result = pgd.attack(model, images, labels, options=pgd.Options(**options), seeds=list(seeds), knowledge=Knowledge())
    return result.images


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return cnn(5, SIDE)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return images_of(64, SIDE)


@pytest.fixture(scope="module")
def labels(network: nn.Module, images: Tensor) -> Tensor:
    return network(images).argmax(dim=1)


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(model(images), labels, reduction="none")


@pytest.mark.parametrize(("eps", "step", "steps"), [(4, 1, 20), (1, 1, 100), (8, 2, 10)])
def test_equals_torchattacks_on_single_images_under_the_same_seed(
    network: nn.Module, images: Tensor, labels: Tensor, eps: int, step: int, steps: int
) -> None:
    seeds = [11, 5_000_019, 3, 70]
    ours = run(network, images[:4], labels[:4], seeds, eps=eps, step=step, steps=steps)
    reference = torchattacks.PGD(network, eps=eps / 255, alpha=step / 255, steps=steps, random_start=True)
    for row, seed in enumerate(seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            theirs = reference(images[row : row + 1], labels[row : row + 1])
        assert (ours[row] - theirs[0]).abs().max() <= 1e-6
        assert (ours[row] - images[row]).abs().max() > 0.9 * eps / 255


def test_without_random_start_equals_torchattacks_too(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    ours = run(network, images[:4], labels[:4], range(4), eps=4, step=1, steps=10, random_start=False)
    reference = torchattacks.PGD(network, eps=4 / 255, alpha=1 / 255, steps=10, random_start=False)
    torch.testing.assert_close(ours, reference(images[:4], labels[:4]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("low", "high"), [(0.1, 0.9), (0.0, 0.01), (0.99, 1.0)])
def test_every_pixel_of_a_linear_model_ends_at_its_bound(classes: int, low: float, high: float) -> None:
    # All other classes lead the true one along the same signs, so the sign of the gradient is known whatever the
    # probabilities are, and the optimum is one corner of the box: the ball away from the walls, cut off at them.
    stream = torch.Generator().manual_seed(4)
    signs = (torch.rand(3 * SIDE**2, generator=stream) - 0.5).sign()
    weight = 0.01 * torch.rand(classes, 3 * SIDE**2, generator=stream)
    label, eps = classes - 1, 4 / 255
    weight[label] -= 0.03 * signs
    model, centre = Linear(weight), images_of(6, SIDE, low, high)
    found = run(model, centre, torch.full((6,), label), range(6), eps=4, step=1, steps=12)
    optimum = (centre + eps * signs.view(3, SIDE, SIDE)).clamp(0, 1)
    torch.testing.assert_close(found, optimum, rtol=0, atol=1e-6)
    assert ((optimum - centre).abs() < eps - 1e-3).any() == (low == 0.0 or high == 1.0), "the walls are tested as well"


def test_eps_zero_changes_nothing(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    assert torch.equal(run(network, images, labels, range(64), eps=0, step=1, steps=5), images)


def test_a_larger_ball_leaves_no_more_images_robust(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    robust, losses = [], []
    for eps in (0, 1, 2, 4):
        adversarial = run(network, images, labels, range(64), eps=eps, step=1, steps=20)
        assert (adversarial - images).abs().max() <= eps / 255 + 1e-6
        assert adversarial.min() >= 0
        assert adversarial.max() <= 1
        robust.append(sum(verdicts(network, adversarial, labels)))
        losses.append(cross_entropy(network, adversarial, labels).mean().item())
    assert robust[0] == 64
    assert robust == sorted(robust, reverse=True)
    assert robust[3] < robust[1] < robust[0]
    assert losses == sorted(losses)


@pytest.mark.parametrize("random_start", [True, False])
def test_no_image_has_less_loss_after_the_attack(
    network: nn.Module, images: Tensor, labels: Tensor, random_start: bool
) -> None:
    adversarial = run(network, images, labels, range(64), eps=4, step=1, steps=10, random_start=random_start)
    before, after = (cross_entropy(network, version, labels) for version in (images, adversarial))
    assert (after >= before).all()
    assert (after > before + 1e-3).float().mean() > 0.9


def test_results_do_not_depend_on_how_images_are_put_into_batches(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    # In float64, because the order in which a matrix product is summed depends on the batch: in float32 that noise
    # (1e-7) could turn the sign of a gradient that happens to be as small, and then a pixel goes the other way.
    # In float64 the noise is 1e-16; no gradient here is that near to zero, so all three ways agree to rounding.
    model, doubles, seeds = cnn(5, SIDE).double(), images.double(), range(100, 164)
    results = [
        torch.cat(
            [
                run(model, doubles[rows], labels[rows], [seeds[row] for row in rows], eps=4, step=1, steps=10)
                for rows in map(list, rows_of(64, size))
            ]
        )
        for size in (1, 7, 64)
    ]
    for other in results[:2]:
        torch.testing.assert_close(other, results[2], rtol=0, atol=1e-12)
        assert verdicts(model, other, labels) == verdicts(model, results[2], labels)
    assert 0 < sum(verdicts(model, results[2], labels)) < 64


def test_the_same_seeds_give_the_same_images_and_others_do_not(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    first, second, third = (
        run(network, images, labels, range(start, start + 64), eps=4, steps=2) for start in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_the_global_random_stream_is_neither_used_nor_moved(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, state = run(network, images, labels, range(64), steps=2), torch.random.get_rng_state()
        torch.manual_seed(1)
        second = run(network, images, labels, range(64), steps=2)
        assert torch.equal(first, second)
        torch.manual_seed(0)
        assert torch.equal(state, torch.random.get_rng_state())


def test_the_input_is_not_changed(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    before = images.clone()
    run(network, images, labels, range(64), eps=4, steps=3)
    run(network, images, labels, range(64), eps=4, steps=3, random_start=False)
    assert torch.equal(images, before)
    assert not images.requires_grad


def test_restarts_keep_each_image_at_its_highest_loss(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    many = run(network, images, labels, range(64), eps=2, step=1, steps=3, restarts=4)
    first = run(network, images, labels, range(64), eps=2, step=1, steps=3)
    after, before = (cross_entropy(network, each, labels) for each in (many, first))
    assert (after >= before).all()
    assert (after > before + 1e-6).any()
    starts = pgd.starts_in_ball(images, 2 / 255, range(64), count=4)
    assert torch.equal(starts[0], pgd.starts_in_ball(images, 2 / 255, range(64))[0]), (
        "the first start is that of one run"
    )
    ends = [
        pgd.ascend(
            lambda x: functional.cross_entropy(network(x), labels, reduction="sum"), images, start, 2 / 255, 1 / 255, 3
        )
        for start in starts
    ]
    best = torch.stack([cross_entropy(network, end, labels) for end in ends]).amax(dim=0)
    torch.testing.assert_close(after, best, rtol=0, atol=1e-6)
