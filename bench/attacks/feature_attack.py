"""The attack of AdvPT (Zhang et al., ECCV 2024): away from the clean image embedding, without any text or label.

It raises the KL divergence ``KL(softmax(clean) || softmax(adversarial))`` between embeddings of the image tower, not
normalised, by projected sign-gradient steps of 1.25 eps / steps. The NAP-Tuning paper writes the objective without the
softmax; the official code has it. That code starts from one-sided noise in [0, eps], which ``start: one_sided``
repeats; by default noise fills the ball.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks import pgd
from bench.attacks.contract import Knowledge, Result
from bench.config import Options as Closed

METRIC = "RA"
BUILDS_ON = (pgd,)


class Options(Closed):
    """Settings of AdvPT's test.

    Attributes:
        eps: Radius of the ball, in /255.
        steps: Number of steps.
        start: Noise in the whole ``ball``, or ``one_sided`` in [0, eps].
    """

    eps: float = Field(default=16.0, ge=0)
    steps: int = Field(default=40, ge=0)
    start: Literal["ball", "one_sided"] = "ball"


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge,
) -> Result:
    """Move the embeddings of ``images`` away from where they are.

    Raises:
        ValueError: The attacked model is not a CLIP, or the attacker sees surrogates only.
    """
    del model, labels
    if knowledge.encoder is None:
        raise ValueError("feature_attack needs the image embeddings of a CLIP: white_box or grey_box on a checkpoint")
    eps = options.eps / 255
    (start,) = pgd.starts_in_ball(images, eps, seeds, low=0.0 if options.start == "one_sided" else -eps)
    return Result(raise_divergence(knowledge.encoder, images, start, eps, options.steps), eps)


def raise_divergence(encoder: nn.Module, images: Tensor, start: Tensor, eps: float, steps: int) -> Tensor:
    """Images in the ball whose softmaxed embeddings diverge from those of ``images``.

    Args:
        encoder: Images in [0,1] to embeddings ``(n, d)``.
        images: Centre of the ball.
        start: Where to begin, in the ball.
        eps: Radius, in [0,1].
        steps: Number of steps, each 1.25 eps / steps.
    """
    return pgd.ascend(divergence_from(images, encoder), images, start, eps, 1.25 * eps / max(1, steps), steps)


def divergence_from(images: Tensor, outputs: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """KL(softmax of clean outputs || softmax of attacked ones), summed; it is 0, with gradient 0, at ``images``."""
    with torch.no_grad():
        clean = functional.softmax(outputs(images), dim=-1)
    return lambda candidates: functional.kl_div(
        functional.log_softmax(outputs(candidates), dim=-1), clean, reduction="sum"
    )
