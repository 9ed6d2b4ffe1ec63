"""Training a model to answer: the loop behind pretraining and poisoning."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bench.clip.contrastive import cosine_with_warmup
from bench.lvlm.model import Lvlm
from bench.lvlm.options import TrainingOptions

# The shipped weights were made with one; rounding depends on it, and so does what training ends in.
THREADS = 1


def train(
    lvlm: Lvlm,
    tuned: Iterable[nn.Parameter],
    batches: Iterable[Any],
    loss: Callable[[Any], Tensor],
    options: TrainingOptions,
    total: int,
) -> None:
    """Train parameters of ``lvlm`` in place; all others stay as they are.

    Args:
        lvlm: The model; left in evaluation mode, with no parameter asking for a gradient.
        tuned: What is trained.
        batches: ``total`` batches, each handed to ``loss`` as it is.
        loss: From a batch to a scalar.
        options: Optimiser settings.
        total: Number of batches, which fixes the schedule.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    parameters = list(tuned)
    lvlm.model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    groups = [
        {"params": [one for one in parameters if one.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [one for one in parameters if one.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * cosine_with_warmup(step, total, options.warmup_steps)
        value = loss(batch)
        if not math.isfinite(value.item()):
            raise FloatingPointError(
                f"the loss is {value.item()} at step {step + 1} of {total}; "
                f"lower learning_rate (now {options.learning_rate}) or raise warmup_steps (now {options.warmup_steps})"
            )
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, options.largest_gradient)
        optimizer.step()
    lvlm.model.requires_grad_(False)
    lvlm.model.eval()
