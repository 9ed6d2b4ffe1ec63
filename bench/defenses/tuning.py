"""The training loop that prompt-tuning defenses share, with the defaults of CoOp's trainer, which no paper prints."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.transforms import v2

from bench.config import Options
from bench.defenses.contract import Labelled
from bench.progress import track


class TuneOptions(Options):
    """How to tune on few-shot data.

    Attributes:
        learning_rate: After warm-up; falls along half a cosine, once per epoch.
        epochs: Passes over the data.
        batch_size: Images per step; a last, smaller batch is used too.
        optimizer: ``sgd`` with momentum 0.9, or ``adamw``.
        weight_decay: On all tuned parameters.
        warmup_epochs: Epochs at ``warmup_rate`` before the schedule starts.
        warmup_rate: Learning rate of the warm-up.
        augment: Random crop and horizontal flip; off where that would change the class.
        crop: Least share of the area that a random crop keeps.
    """

    learning_rate: float = Field(gt=0)
    epochs: int = Field(gt=0)
    batch_size: int = Field(default=32, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = Field(default=5e-4, ge=0)
    warmup_epochs: int = Field(default=1, ge=0)
    warmup_rate: float = 1e-5
    augment: bool = True
    crop: float = Field(default=0.08, gt=0, le=1)


def tune(
    parameters: Sequence[nn.Parameter],
    data: Labelled,
    loss: Callable[[Tensor, Tensor, int], Tensor],
    options: TuneOptions,
    label: str,
) -> list[float]:
    """Minimise ``loss`` over few-shot data.

    Args:
        parameters: What to tune.
        data: Images and labels.
        loss: From images, labels and epoch (from 0) to a scalar.
        options: Optimiser and schedule.
        label: Name for the progress bar.

    Returns:
        Mean loss of each epoch.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    optimizer = _optimizer(parameters, options)
    history = list[float]()
    for epoch in track(range(options.epochs), label):
        for group in optimizer.param_groups:
            group["lr"] = _rate(epoch, options)
        total = 0.0
        for rows in shuffled(len(data.labels), options.batch_size):
            images = _augmented(data.images[rows], options.crop) if options.augment else data.images[rows]
            value = loss(images, data.labels[rows], epoch)
            if not torch.isfinite(value):
                raise FloatingPointError(
                    f"{label}: the loss is {value.item()} in epoch {epoch + 1}; lower learning_rate "
                    f"(now {options.learning_rate})"
                )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += value.item() * len(rows)
        history.append(total / len(data.labels))
    return history


def shuffled(count: int, batch_size: int) -> Iterator[Tensor]:
    """All rows in random order, in batches; drawn from torch's global stream."""
    yield from torch.randperm(count).split(batch_size)


def _optimizer(parameters: Sequence[nn.Parameter], options: TuneOptions) -> torch.optim.Optimizer:
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
    return torch.optim.SGD(parameters, lr=options.learning_rate, momentum=0.9, weight_decay=options.weight_decay)


def _rate(epoch: int, options: TuneOptions) -> float:
    """Dassl's schedule: warm-up epochs at a constant rate, then a cosine that starts anew from the full rate."""
    if epoch < options.warmup_epochs:
        return options.warmup_rate
    done = (epoch - options.warmup_epochs) / options.epochs
    return 0.5 * options.learning_rate * (1 + math.cos(math.pi * done))


def _augmented(images: Tensor, least: float) -> Tensor:
    """Each image cropped, to at least a share ``least`` of its area, and flipped on its own."""
    size = list(images.shape[-2:])
    crop = v2.RandomResizedCrop(size, scale=(least, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    transform = v2.Compose([crop, v2.RandomHorizontalFlip()])
    return torch.stack([transform(image) for image in images]).clamp(0, 1)
