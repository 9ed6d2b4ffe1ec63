"""Contrastive training on image-caption pairs: the loop behind pretraining, poisoning and CleanCLIP.

Follows CleanCLIP's official trainer: AdamW, linear warm-up, cosine to zero per step, no weight decay on biases, norms
and the logit scale, and the logit scale clamped to at most 100.
"""

import math
from collections.abc import Callable, Iterable

import torch
from open_clip import CLIP
from torch import Tensor, nn
from torch.nn import functional

from bench.clip.model import Clip, normalise
from bench.config import Options
from bench.device import compute_device


class ContrastiveOptions(Options):
    """How to train on image-caption pairs."""

    learning_rate: float
    batch_size: int
    weight_decay: float = 0.1
    warmup_steps: int = 50


def contrastive_loss(scale: Tensor, images: Tensor, texts: Tensor) -> Tensor:
    """Symmetric InfoNCE of CLIP.

    Args:
        scale: Logit scale (not its logarithm).
        images: Normalised image embeddings ``(n, d)``.
        texts: Normalised text embeddings ``(n, d)``; row i belongs to image i.
    """
    logits = scale * images @ texts.T
    targets = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2


def pair_loss(clip: Clip, images: Tensor, ids: Tensor) -> Tensor:
    """CLIP's loss of ``clip`` itself, for images ``(n, 3, h, w)`` in [0,1] and the ids of their captions."""
    image = functional.normalize(clip.model.encode_image(normalise(clip, images)), dim=-1)
    text = functional.normalize(clip.model.encode_text(ids), dim=-1)
    return contrastive_loss(clip.model.logit_scale.exp(), image, text)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters in two groups; biases, norms and the logit scale are not decayed."""
    decayed, free = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = any(part in name for part in ("ln", "bn", "bias", "logit_scale"))
            (free if plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def cosine_with_warmup(step: int, total: int, warmup: int) -> float:
    """Factor on the learning rate at ``step``: linear up over ``warmup`` steps, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def train_contrastive(
    model: CLIP,
    batches: Iterable[tuple[Tensor, ...]],
    loss: Callable[[tuple[Tensor, ...]], Tensor],
    options: ContrastiveOptions,
    total: int,
) -> None:
    """Train all parameters of ``model`` in place.

    Args:
        model: An open_clip model; left in evaluation mode, on the device that computes.
        batches: ``total`` batches, each handed to ``loss`` there.
        loss: From a batch to a scalar.
        options: Optimiser settings.
        total: Number of batches, which fixes the schedule.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    there = compute_device()
    model.to(there).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(parameter_groups(model, options.weight_decay), lr=options.learning_rate)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * cosine_with_warmup(step, total, options.warmup_steps)
        value = loss(tuple(part.to(there) for part in batch))
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"the contrastive loss is {value.item()} at step {step + 1} of {total}; "
                f"lower learning_rate (now {options.learning_rate}) or raise warmup_steps (now {options.warmup_steps})"
            )
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
    model.eval()
