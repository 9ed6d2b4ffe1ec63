"""The attack on a substitute trained without labels: AGS (Wang, Guo and Wang, AAAI 2024), ``CpAttack`` of its code.

Momentum steps raise ``1 - cos(h(x'), h(x))`` between features in the middle of the substitute, from a random start; no
label and no attacked model is used. ``bench/surrogates/ags.py`` trains the substitute. The official eps is 25.5/255,
TransferAttack's 16/255, and NAP-Tuning states none; 16 is the default. The official code does not clip the random start
to [0,1]; here it is clipped.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks import pgd
from bench.attacks.contract import Knowledge, Result
from bench.config import Options as Closed

METRIC = "RA"
BUILDS_ON = (pgd,)
NEEDS = "features"


class Options(Closed):
    """Settings of the official code, but for eps.

    Attributes:
        eps: Radius of the ball, in /255.
        step: Step size, in /255.
        steps: Number of steps.
        momentum: Decay of the momentum.
    """

    eps: float = Field(default=16.0, ge=0)
    step: float = Field(default=1.0, ge=0)
    steps: int = Field(default=300, ge=0)
    momentum: float = Field(default=1.0, ge=0)


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge,
) -> Result:
    """Turn the substitute's features of ``images`` away from where they point."""
    del labels, knowledge
    eps, step = options.eps / 255, options.step / 255
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    with torch.no_grad():
        clean = model(images).flatten(1)
    (x,) = pgd.starts_in_ball(images, eps, seeds)
    momentum = torch.zeros_like(images)
    for _ in range(options.steps):
        x = x.detach().requires_grad_()
        turned = 1 - functional.cosine_similarity(model(x).flatten(1), clean)
        (gradient,) = torch.autograd.grad(turned.sum(), x)
        size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
        momentum = options.momentum * momentum + gradient / size
        x = (x.detach() + step * momentum.sign()).clamp(low, high)
    return Result(x, eps)
