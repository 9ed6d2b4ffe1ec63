"""Away from an image's own captions, L-infinity: the attack on retrieval of R-Adapt (Table 4).

The paper says that images are pushed away from their texts, and nothing about loss, steps or step size. Here PGD lowers
the mean similarity of the image to its own captions; ``loss: cross_entropy`` instead lowers the share of the softmax
over all captions that its own ones get. Captions stay as they are. With one label per image it is an attack on a
classifier too.
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


class Options(Closed):
    """The paper's larger radius, with the steps of PGD-100.

    Attributes:
        eps: Radius of the ball, in /255.
        step: Step size, in /255.
        steps: Number of steps, from a random start in the ball.
        loss: What is raised: minus the mean similarity, or the cross-entropy with all own captions as the right class.
    """

    eps: float = Field(default=4.0, ge=0)
    step: float = Field(default=1.0, ge=0)
    steps: int = Field(default=100, ge=0)
    loss: Literal["similarity", "cross_entropy"] = "similarity"


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge,
) -> Result:
    """Move ``images`` away from the captions ``labels``, places in the model's outputs: ``(n,)`` or ``(n, m)``."""
    del knowledge
    eps, own = options.eps / 255, labels.reshape(len(labels), -1)
    (start,) = pgd.starts_in_ball(images, eps, seeds)

    def loss(candidates: Tensor) -> Tensor:
        similarities = model(candidates)
        right = similarities.gather(1, own)
        if options.loss == "similarity":
            return -right.mean(dim=1).sum()
        return (torch.logsumexp(similarities, dim=1) - torch.logsumexp(right, dim=1)).sum()

    return Result(pgd.ascend(loss, images, start, eps, options.step / 255, options.steps), eps)
