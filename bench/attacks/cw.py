"""The attacks called C&W (after Carlini and Wagner, S&P 2017). Three different things have that name.

``linf`` is what TeCoA, TTC and TGA-ZSR call C&W: PGD in the L-infinity ball that lowers the margin
``max(z_y - max_{j != y} z_j, -kappa)`` with kappa = 50, which CLIP's logits never reach. No paper states R-Adapt's
form; this is the one with a bound. ``l2`` is the original, as in ``torchattacks.CW``: minimise
``||x' - x||_2^2 + c max(z_y - max_{j != y} z_j, -kappa)`` over ``x' = (tanh w + 1) / 2`` by Adam, without a search over
c and without a bound; the nearest wrong image is returned, the image itself if none is found. ``l2_clipped`` cuts the
change found by ``l2`` down to the ball.

Two faults of ``torchattacks.CW`` are not repeated. Pixels of exactly 0 or 1 are at infinity in ``w`` and never move;
here they start 1e-6 inside. It masks the true class with a zero, so that it finds nothing where all other logits are
negative; here it is left out, and adding a constant to all logits changes nothing. And its early stop looks at the sum
over the batch; here each image stops on its own, as it would in a batch of one.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.attacks import pgd
from bench.attacks.contract import Knowledge, Result
from bench.config import Options as Closed

METRIC = "RA"
BUILDS_ON = (pgd,)
_INSIDE = 1 - 1e-6


class Options(Closed):
    """Settings of TGA-ZSR's test (``linf``; TTC has 10 steps, TeCoA 5) and of torchattacks (``l2``).

    Attributes:
        norm: Which of the three forms.
        eps: Radius of the L-infinity ball, in /255; not used by ``l2``.
        step: Step size in /255, for ``linf``.
        steps: Number of steps.
        random_start: For ``linf``: start anywhere in the ball instead of at the image.
        kappa: Lead of the wrong class at which an image is left alone; 50 for ``linf`` and 0 for ``l2`` if not given.
        c: For ``l2``: weight of the margin against the distance.
        learning_rate: For ``l2``: Adam's.
    """

    norm: Literal["linf", "l2", "l2_clipped"] = "linf"
    eps: float = Field(default=1.0, ge=0)
    step: float = Field(default=1.0, ge=0)
    steps: int = Field(default=100, ge=0)
    random_start: bool = True
    kappa: float | None = Field(default=None, ge=0)
    c: float = Field(default=1.0, gt=0)
    learning_rate: float = Field(default=0.01, gt=0)


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge,
) -> Result:
    """Lower the margin of ``labels``, near ``images``."""
    del knowledge
    eps = options.eps / 255
    if options.norm == "linf":
        kappa = 50.0 if options.kappa is None else options.kappa
        (start,) = pgd.starts_in_ball(images, eps, seeds) if options.random_start else [images]

        def loss(candidates: Tensor) -> Tensor:
            return -margins(model(candidates), labels).clamp(min=-kappa).sum()

        return Result(pgd.ascend(loss, images, start, eps, options.step / 255, options.steps), eps)
    nearest = _nearest_wrong(model, images, labels, options)
    if options.norm == "l2":
        return Result(nearest, eps=None)
    return Result((images + (nearest - images).clamp(-eps, eps)).clamp(0, 1), eps)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the true class leads the best other one, ``(n,)``; negative where the image is wrong."""
    true = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return true.squeeze(1) - others.amax(dim=1)


def _nearest_wrong(model: nn.Module, images: Tensor, labels: Tensor, options: Options) -> Tensor:
    """For each image the nearest wrong one in L2 that Adam passes through, or the image itself."""
    kappa, check = options.kappa or 0.0, max(options.steps // 10, 1)
    w = torch.atanh((2 * images - 1).clamp(-_INSIDE, _INSIDE)).requires_grad_()
    optimizer = torch.optim.Adam([w], lr=options.learning_rate)
    best, least = images.clone(), torch.full_like(images[:, 0, 0, 0], torch.inf)
    last_cost, running = least.clone(), torch.ones_like(labels, dtype=torch.bool)
    for step in range(options.steps):
        candidates = (torch.tanh(w) + 1) / 2
        distances = (candidates - images).square().flatten(1).sum(dim=1)
        lead = margins(model(candidates), labels)
        costs = distances + options.c * lead.clamp(min=-kappa)
        (w.grad,) = torch.autograd.grad(costs.sum(), w)
        optimizer.step()
        with torch.no_grad():
            better = running & (lead < 0) & (distances < least)
            best[better], least[better] = candidates[better], distances[better]
            if step % check == 0:
                running &= costs <= last_cost
                last_cost = costs
        if not running.any():
            break
    return best.detach()
