"""Tiny models whose behaviour under attack is known."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def images_of(count: int, side: int = 6, low: float = 0.0, high: float = 1.0, seed: int = 1) -> Tensor:
    return low + (high - low) * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def cnn(classes: int, side: int = 6, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * side * side, classes)
        )
    return layers.eval().requires_grad_(False)


class Linear(nn.Module):
    """Logits ``weight @ pixels + bias``; its worst case in a box is known in closed form."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else bias, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T + self.bias

    def worst_margins(self, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Least lead of the true class over any other, over the whole ball: a linear programme over a box."""
        low, high = ((images + step).clamp(0, 1).flatten(1) for step in (-eps, eps))
        margins = torch.full((len(images), len(self.weight)), torch.inf)
        for row, label in enumerate(labels.tolist()):
            for other in set(range(len(self.weight))) - {label}:
                lead = self.weight[label] - self.weight[other]
                least = torch.where(lead > 0, low[row], high[row])
                margins[row, other] = lead @ least + self.bias[label] - self.bias[other]
        return margins.min(dim=1).values


class Patches(nn.Module):
    """Cuts images into squares of three pixels, and gives a linear function of each for every word."""

    def __init__(self, words: int, size: int = 3, seed: int = 0) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(words, 3, size, size, generator=stream) / 9, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.weight, stride=self.weight.shape[-1]).flatten(2).transpose(1, 2)


def random_linear(classes: int, side: int = 6, seed: int = 0) -> Linear:
    return Linear(torch.randn(classes, 3 * side * side, generator=torch.Generator().manual_seed(seed)) / 3)


def clear_cut(classes: int, eps: float, count: int) -> tuple[Linear, Tensor, Tensor, Tensor]:
    """A linear model with images whose verdict is not a matter of rounding: within 5 % of eps none changes."""
    model, images = random_linear(classes), images_of(600, low=-0.1, high=1.1).clamp(0, 1)
    labels = model(images).argmax(dim=1)
    robust, weaker, stronger = (model.worst_margins(images, labels, eps * by / 255) > 0 for by in (1, 0.95, 1.05))
    clear = (robust == weaker) & (robust == stronger)
    chosen = torch.cat([torch.nonzero(clear & side)[: count // 2, 0] for side in (robust, ~robust)])
    chosen = chosen[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    return model, images[chosen], labels[chosen], robust[chosen]


class Softmax(nn.Module):
    """Gives probabilities away instead of logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).softmax(dim=1)


class Noisy(nn.Module):
    """Adds noise to its input anew each time."""

    def __init__(self, model: nn.Module, spread: float = 0.05) -> None:
        super().__init__()
        self.model, self.spread = model, spread

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + self.spread * torch.randn_like(images))


class Quantised(nn.Module):
    """Rounds its input to a few grey levels, which has no gradient."""

    def __init__(self, model: nn.Module, levels: int = 16) -> None:
        super().__init__()
        self.model, self.levels = model, levels

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images * self.levels).round() / self.levels)


class Dynamic(nn.Module):
    """Changes its input by a gradient step of its own before it looks at it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            probe = images.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.model(probe).max(dim=1).values.sum(), probe)
        return self.model(images + 0.001 * gradient.sign())


def verdicts(model: nn.Module, images: Tensor, labels: Tensor) -> list[bool]:
    with torch.no_grad():
        return (model(images).argmax(dim=1) == labels).tolist()


def rows_of(count: int, size: int) -> Sequence[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
