from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import autoattack, clean, pgd
from bench.attacks.checked import attack_in_parts, run_attack
from bench.attacks.contract import Knowledge, Result
from bench.config import Options

from .models import cnn, images_of

EPS = 4 / 255


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return cnn(5)


@pytest.fixture
def images() -> Tensor:
    return images_of(5, low=0.1, high=0.9)


def checked(network: nn.Module, images: Tensor, change: Callable[[Tensor], Tensor], eps: float | None = EPS) -> Any:
    """Run an attack that does ``change``."""

    def attack(model: nn.Module, images: Tensor, labels: Tensor, **_: object) -> Result:
        return Result(change(images), eps)

    module = SimpleNamespace(__name__="bench.attacks.bad", attack=attack)
    labels = torch.zeros(len(images), dtype=torch.long)
    return run_attack(module, network, images, labels, options=Options(), seeds=range(len(images)))


def test_an_honest_attack_passes_unchanged(network: nn.Module, images: Tensor) -> None:
    attacked = checked(network, images, lambda clean: clean + EPS)
    assert torch.equal(attacked.images, images + EPS)
    assert attacked.flags == frozenset()
    assert (attacked.forwards, attacked.backwards) == (0, 0)


def test_an_edit_in_place_is_caught(network: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="'bad' changed its input in place"):
        checked(network, images, lambda clean: clean.add_(0.001))


def test_an_edit_in_place_is_caught_where_other_images_are_returned(network: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="in place"):
        checked(network, images, lambda clean: clean.clone() if clean[0, 0, 0, 0].fill_(0.5) else clean)


@pytest.mark.parametrize("sign", [1, -1])
def test_leaving_the_ball_by_one_pixel_is_caught(network: nn.Module, images: Tensor, sign: int) -> None:
    def change(clean: Tensor) -> Tensor:
        moved = clean.clone()
        moved[3, 1, 2, 2] += sign * (EPS + 1e-5)
        return moved

    with pytest.raises(ValueError, match=r"'bad' left the ball of radius 4\.000/255"):
        checked(network, images, change)


def test_float_rounding_at_the_edge_of_the_ball_is_allowed(network: nn.Module, images: Tensor) -> None:
    assert checked(network, images, lambda clean: clean + (EPS + 2e-7)).images.shape == images.shape


def test_without_a_bound_any_change_is_allowed(network: nn.Module, images: Tensor) -> None:
    assert torch.equal(checked(network, images, torch.zeros_like, eps=None).images, torch.zeros_like(images))


@pytest.mark.parametrize("value", [-1e-3, 1.001, torch.inf])
def test_leaving_the_range_is_caught(network: nn.Module, images: Tensor, value: float) -> None:
    def change(clean: Tensor) -> Tensor:
        moved = clean.clone()
        moved[0, 0, 0, 0] = value
        return moved

    with pytest.raises(ValueError, match=r"'bad' left the range \[0,1\]"):
        checked(network, images, change, eps=None)


@pytest.mark.parametrize(
    "change",
    [lambda clean: clean[:4], lambda clean: clean[..., :5], lambda clean: clean.double()],
    ids=["fewer images", "narrower images", "other dtype"],
)
def test_a_wrong_shape_or_dtype_is_caught(
    network: nn.Module, images: Tensor, change: Callable[[Tensor], Tensor]
) -> None:
    with pytest.raises(ValueError, match="'bad' returned"):
        checked(network, images, change)


@pytest.mark.parametrize("where", [(2,), (2, 1, 3, 3)], ids=["the whole image", "one pixel"])
def test_an_image_with_nan_is_flagged_and_restored_whole(
    network: nn.Module, images: Tensor, where: tuple[int, ...]
) -> None:
    def change(clean: Tensor) -> Tensor:
        moved = clean + EPS
        moved[where] = torch.nan
        return moved

    attacked = checked(network, images, change)
    assert attacked.flags == {"nan"}
    assert torch.equal(attacked.images[2], images[2])
    others = [0, 1, 3, 4]
    assert torch.equal(attacked.images[others], images[others] + EPS)


def test_normalised_images_are_refused(network: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0,1\].*normalise in the model"):
        checked(network, (images - 0.5) / 0.25, lambda clean: clean)


def test_clean_images_with_nan_are_refused_for_what_they_are(network: nn.Module, images: Tensor) -> None:
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"must lie in \[0,1\]"):
        checked(network, images, torch.clone)


def test_a_seed_for_each_image_is_demanded(network: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="5 images need as many seeds, not 4"):
        run_attack(clean, network, images, torch.zeros(5, dtype=torch.long), options=clean.Options(), seeds=range(4))


def test_passes_of_pgd_are_counted_per_image(network: nn.Module, images: Tensor) -> None:
    labels = network(images).argmax(dim=1)
    attacked = run_attack(pgd, network, images, labels, options=pgd.Options(eps=4, steps=3), seeds=range(5))
    assert (attacked.forwards, attacked.backwards) == (15, 15)


def test_passes_of_autoattack_without_a_robust_image_are_counted(network: nn.Module, images: Tensor) -> None:
    # One image to learn the number of classes; five times the batch to look for randomness, once for the range, once
    # for dynamic models, once for clean accuracy: 1 + 8 * 5 forward passes, and no attack, for nothing is robust.
    wrong = (network(images).argmax(dim=1) + 1) % 5
    attacked = run_attack(autoattack, network, images, wrong, options=autoattack.Options(), seeds=range(5))
    assert (attacked.forwards, attacked.backwards) == (41, 0)


def test_the_clean_attack_returns_the_images_and_asks_the_model_nothing(network: nn.Module, images: Tensor) -> None:
    labels = torch.zeros(5, dtype=torch.long)
    attacked = run_attack(clean, network, images, labels, options=clean.Options(), seeds=range(5))
    assert torch.equal(attacked.images, images)
    assert (attacked.forwards, attacked.backwards) == (0, 0)


def test_passes_through_encoder_and_surrogates_are_counted_too(network: nn.Module, images: Tensor) -> None:
    def attack(model: nn.Module, images: Tensor, labels: Tensor, *, knowledge: Knowledge, **_: object) -> Result:
        assert knowledge.encoder is not None
        start = images.clone().requires_grad_()
        for each in (model, knowledge.encoder, *knowledge.surrogates):
            torch.autograd.grad(each(start).sum(), start)
        return Result(images, eps=0.0)

    module = SimpleNamespace(__name__="bench.attacks.nosy", attack=attack)
    knowledge = Knowledge(encoder=network, surrogates=(network, network))
    labels = torch.zeros(5, dtype=torch.long)
    attacked = run_attack(module, network, images, labels, options=Options(), seeds=range(5), knowledge=knowledge)
    assert (attacked.forwards, attacked.backwards) == (20, 20)


def hungry(most: int, error: Exception, **names: object) -> Any:
    """An attack that has memory for ``most`` images at a time."""

    def attack(model: nn.Module, images: Tensor, labels: Tensor, *, seeds: Any, **_: object) -> Result:
        if len(images) > most:
            raise error
        model(images)
        return Result(images + torch.tensor([0.01 * seed for seed in seeds]).view(-1, 1, 1, 1), EPS * 10)

    return SimpleNamespace(__name__="bench.attacks.hungry", attack=attack, **names)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize(("names", "flags"), [({}, set()), ({"NOISE_PER_BATCH": True}, {"batch_halved"})])
def test_out_of_memory_halves_the_batch_and_says_so(
    network: nn.Module,
    images: Tensor,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    names: Any,
    flags: set[str],
) -> None:
    labels, seeds = torch.zeros(5, dtype=torch.long), range(5)
    attacked = attack_in_parts(hungry(2, error, **names), network, images, labels, options=Options(), seeds=seeds)
    whole = run_attack(hungry(5, error), network, images, labels, options=Options(), seeds=seeds)
    assert torch.equal(attacked.images, whole.images)
    assert attacked.flags == flags
    assert (attacked.forwards, whole.forwards) == (5, 5)
    assert "out of memory with 5 images at a time; going on with 2" in capsys.readouterr().err


def test_where_one_image_is_too_much_the_error_stands(network: nn.Module, images: Tensor) -> None:
    labels = torch.zeros(5, dtype=torch.long)
    with pytest.raises(torch.OutOfMemoryError):
        attack_in_parts(hungry(0, OUT_OF_MEMORY[0]), network, images, labels, options=Options(), seeds=range(5))


def test_other_errors_do_not_halve_the_batch(network: nn.Module, images: Tensor) -> None:
    labels = torch.zeros(5, dtype=torch.long)
    with pytest.raises(RuntimeError, match="a fault of its own"):
        attack_in_parts(
            hungry(2, RuntimeError("a fault of its own")), network, images, labels, options=Options(), seeds=range(5)
        )
