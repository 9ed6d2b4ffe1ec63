"""PGD (Madry et al., ICLR 2018), L-infinity, untargeted, on cross-entropy; ``reference`` form of FAP and torchattacks.

Uniform start in the ball, sign steps, projection on the ball and on [0,1] at each step; the last iterate is returned:
no best iterate, no early stop, and no restarts unless asked for. Cross-entropy is summed instead of averaged, so that
gradients cannot underflow in large batches; the sign makes both the same. ``PGD-T`` is this with ``steps: T``.
"""

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks.contract import Knowledge, Result
from bench.config import Options as Closed
from bench.randomness import draw_each

METRIC = "RA"


class Options(Closed):
    """Settings of FAP's and CBA-FAPT's PGD-100.

    Attributes:
        eps: Radius of the ball, in /255.
        step: Step size, in /255.
        steps: Number of steps.
        random_start: Start anywhere in the ball instead of at the image.
        restarts: Runs from different starts, of which each image keeps the one with the highest loss; FAP has 1.
    """

    eps: float = Field(default=1.0, ge=0)
    step: float = Field(default=1.0, ge=0)
    steps: int = Field(default=100, ge=0)
    random_start: bool = True
    restarts: int = Field(default=1, gt=0)


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge,
) -> Result:
    """Raise the cross-entropy of ``labels`` within the ball around ``images``."""
    del knowledge
    eps = options.eps / 255
    starts = starts_in_ball(images, eps, seeds, options.restarts) if options.random_start else [images]

    def loss(candidates: Tensor) -> Tensor:
        return functional.cross_entropy(model(candidates), labels, reduction="sum")

    ends = [ascend(loss, images, start, eps, options.step / 255, options.steps) for start in starts]
    return Result(ends[0] if len(ends) == 1 else _highest(model, ends, labels), eps)


def starts_in_ball(
    images: Tensor, eps: float, seeds: Sequence[int], count: int = 1, low: float | None = None
) -> list[Tensor]:
    """``count`` times ``images`` plus uniform noise, clipped to [0,1].

    Args:
        images: Centre of the ball.
        eps: Radius, in [0,1].
        seeds: One per image, for a stream of its own.
        count: How many starts.
        low: Least noise; -eps if not given.
    """
    size, low = (count, *images.shape[1:]), -eps if low is None else low
    noise = draw_each(seeds, lambda stream: torch.empty(size).uniform_(low, eps, generator=stream))
    return [(images + noise[:, run].to(images)).clamp(0, 1) for run in range(count)]


@torch.no_grad()
def _highest(model: nn.Module, ends: Sequence[Tensor], labels: Tensor) -> Tensor:
    """For each image the candidate with the highest loss."""
    losses = torch.stack([functional.cross_entropy(model(end), labels, reduction="none") for end in ends])
    return torch.stack(tuple(ends))[losses.argmax(dim=0), torch.arange(len(labels))]


def ascend(
    loss: Callable[[Tensor], Tensor], images: Tensor, start: Tensor, eps: float, step: float, steps: int
) -> Tensor:
    """Projected sign-gradient ascent of ``loss`` from ``start``, in the ball of radius ``eps`` around ``images``.

    Args:
        loss: From candidate images to a scalar.
        images: Centre of the ball, in [0,1].
        start: Where to begin, in the ball.
        eps: Radius, in [0,1].
        step: Step size, in [0,1].
        steps: Number of steps.
    """
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    candidates = start.detach()
    for _ in range(steps):
        candidates.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(candidates), candidates)
        candidates = torch.clamp(candidates.detach() + step * gradient.sign(), low, high)
    return candidates
