from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench.evaluation.sanity import masking_flags


def plain(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5))
    return layers.eval().requires_grad_(False)


class Masked(nn.Module):
    """The plain model behind ``before`` its input and ``after`` its logits."""

    def __init__(
        self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        super().__init__()
        self.model, self.before, self.after = plain(), before, after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.model(self.before(images)))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def flags_of(model: nn.Module, images: Tensor) -> frozenset[str]:
    return masking_flags(model, images, plain()(images).argmax(dim=1))


@pytest.mark.parametrize("seed", range(5))
def test_a_plain_cnn_is_not_flagged(images: Tensor, seed: int) -> None:
    model = plain(seed)
    assert masking_flags(model, images, model(images).argmax(dim=1)) == frozenset()
    assert masking_flags(model, images, torch.zeros(16, dtype=torch.long)) == frozenset()


def test_a_model_that_rounds_its_input_is_flagged_for_its_gradients(images: Tensor) -> None:
    model = Masked(before=lambda x: (x * 16).round() / 16)
    assert flags_of(model, images) == {"quantised_input", "zero_gradient", "uninformative_gradient"}


def test_rounding_that_passes_gradients_straight_through_is_flagged_all_the_same(images: Tensor) -> None:
    model = Masked(before=lambda x: x + ((x * 16).round() / 16 - x).detach())
    assert flags_of(model, images) == {"quantised_input"}


@pytest.mark.parametrize("levels", [2, 8, 16, 32, 255])
def test_rounding_to_any_number_of_levels_is_found_on_8_bit_images(images: Tensor, levels: int) -> None:
    model = Masked(before=lambda x: (x * levels).round() / levels)
    assert "quantised_input" in flags_of(model, (images * 255).round() / 255)


def test_saturated_logits_are_flagged_although_their_order_is_that_of_a_plain_model(images: Tensor) -> None:
    model = Masked(after=lambda logits: 1e4 * logits)
    assert flags_of(model, images) == {"saturated_logits", "zero_gradient", "uninformative_gradient"}


def test_logits_that_are_cut_off_and_saturated_are_flagged(images: Tensor) -> None:
    model = Masked(after=lambda logits: 1e4 * logits.clamp(-0.2, 0.2))
    assert {"saturated_logits", "zero_gradient", "uninformative_gradient"} <= flags_of(model, images)


def test_a_model_with_random_noise_is_flagged(images: Tensor) -> None:
    model = Masked(before=lambda x: x + 0.05 * torch.randn_like(x))
    assert "randomised" in flags_of(model, images)


def test_probabilities_are_flagged_and_their_gradients_are_not(images: Tensor) -> None:
    assert flags_of(Masked(after=lambda logits: logits.softmax(dim=1)), images) == {"probabilities"}


def test_a_model_that_ignores_its_input_is_flagged(images: Tensor) -> None:
    model = Masked(before=torch.zeros_like)
    assert flags_of(model, images) == {"quantised_input", "zero_gradient", "uninformative_gradient"}


def test_a_gradient_that_points_the_wrong_way_is_flagged_although_it_is_not_zero(images: Tensor) -> None:
    class Turned(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return -gradient

    assert flags_of(Masked(before=Turned.apply), images) == {"uninformative_gradient"}


@pytest.mark.parametrize("seed", range(8))
def test_a_gradient_that_points_anywhere_is_flagged(images: Tensor, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)

    class Shattered(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return torch.randn(gradient.shape, generator=stream)

    assert flags_of(Masked(before=Shattered.apply), images) == {"uninformative_gradient"}


def test_one_image_without_a_gradient_is_enough(images: Tensor) -> None:
    def freeze_first(x: Tensor) -> Tensor:
        return torch.cat([x[:1].detach(), x[1:]])

    assert flags_of(Masked(before=freeze_first), images) == {"zero_gradient"}


def test_images_are_not_changed(images: Tensor) -> None:
    before = images.clone()
    flags_of(plain(), images)
    assert torch.equal(images, before)
    assert not images.requires_grad
