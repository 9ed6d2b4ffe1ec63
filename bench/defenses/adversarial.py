"""Adversarial images while tuning: the PGD that adversarial tuning runs in each step, and the loss on them."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.attacks.feature_attack import divergence_from
from bench.attacks.pgd import ascend
from bench.clip.defended import DefendedCLIP
from bench.config import Options
from bench.defenses.tuning import TuneOptions

Loss = Callable[[Tensor], Tensor]
Raised = Literal["ce", "kl"]


class BallOptions(Options):
    """The attack on the training images.

    Attributes:
        eps: Radius of the ball, in /255.
        step: Step size, in /255; the method's own share of eps if not given.
        attack_steps: Number of steps.
    """

    eps: float = Field(default=1.0, ge=0)
    step: float | None = Field(default=None, ge=0)
    attack_steps: int = Field(default=2, ge=0)

    @property
    def step_size(self) -> float:
        """Step size in /255; steps as long as the radius if not given."""
        return self.eps if self.step is None else self.step


class AttackOptions(BallOptions, TuneOptions):
    """Prompt tuning on attacked images."""


def perturb(loss: Loss, images: Tensor, options: BallOptions, *, random_start: bool = True) -> Tensor:
    """Images in the ball around ``images`` that raise ``loss``; no gradient reaches any parameter.

    Args:
        loss: From candidate images to a scalar.
        images: ``(n, 3, h, w)`` in [0,1].
        options: Radius and steps.
        random_start: Start anywhere in the ball instead of at the image.
    """
    eps, start = options.eps / 255, images
    if random_start:
        noise = torch.empty(images.shape).uniform_(-eps, eps)
        start = (images + noise.to(images)).clamp(0, 1)
    return ascend(loss, images, start, eps, options.step_size / 255, options.attack_steps)


def attack_model(
    model: DefendedCLIP,
    images: Tensor,
    labels: Tensor,
    texts: Tensor,
    options: BallOptions,
    raised: Raised = "ce",
    *,
    random_start: bool = True,
) -> Tensor:
    """Adversarial images for ``model`` as it is; class texts do not depend on the image and stay as given."""
    fixed, there = texts.detach(), model.staged.device
    images, labels = images.to(there), labels.to(there)

    def logits(candidates: Tensor) -> Tensor:
        return model.logits(candidates, fixed)

    def cross_entropy(candidates: Tensor) -> Tensor:
        return functional.cross_entropy(logits(candidates), labels, reduction="sum")

    loss = divergence_from(images, logits) if raised == "kl" else cross_entropy
    return perturb(loss, images, options, random_start=random_start)


def adversarial_loss(
    model: DefendedCLIP, images: Tensor, labels: Tensor, texts: Tensor, options: BallOptions, clean: int = 0
) -> Tensor:
    """Cross-entropy of a batch whose first ``clean`` images stay clean and whose others are attacked."""
    attacked = attack_model(model, images[clean:], labels[clean:], texts, options)
    return functional.cross_entropy(model.logits(torch.cat([images[:clean], attacked]), texts), labels)
