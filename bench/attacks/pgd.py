"""PGD (Madry et al., ICLR 2018), L-infinity, untargeted, on cross-entropy; ``reference`` form of FAP and torchattacks.

Uniform start in the ball, sign steps, projection on the ball and on [0,1] at each step; the last iterate is returned:
no best iterate, no restarts, no early stop. Cross-entropy is summed instead of averaged, so that gradients cannot
underflow in large batches; the sign makes both the same.
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
    """

    eps: float = Field(default=1.0, ge=0)
    step: float = Field(default=1.0, ge=0)
    steps: int = Field(default=100, ge=0)
    random_start: bool = True


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
    start = images
    if options.random_start:
        noise = draw_each(seeds, lambda stream: torch.empty(images.shape[1:]).uniform_(-eps, eps, generator=stream))
        start = (images + noise.to(images)).clamp(0, 1)

    def loss(candidates: Tensor) -> Tensor:
        return functional.cross_entropy(model(candidates), labels, reduction="sum")

    return Result(ascend(loss, images, start, eps, options.step / 255, options.steps), eps)


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
