"""The training loop that defenses share; prompt tuning has the defaults of CoOp's trainer, which no paper prints."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.transforms import v2

from bench.config import Options
from bench.defenses.contract import Labelled
from bench.device import compute_device
from bench.progress import track


class LoopOptions(Options, ABC):
    """How to go through few-shot data.

    Attributes:
        learning_rate: The highest one of the schedule.
        epochs: Passes over the data.
        batch_size: Images per step; a last, smaller batch is used too.
        optimizer: ``sgd`` with momentum 0.9, or ``adamw``.
        weight_decay: On all tuned parameters.
        augment: Random crop and horizontal flip; off where that would change the class.
        crop: Least share of the area that a random crop keeps.
    """

    learning_rate: float = Field(gt=0)
    epochs: int = Field(gt=0)
    batch_size: int = Field(default=32, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = Field(default=5e-4, ge=0)
    augment: bool = True
    crop: float = Field(default=0.08, gt=0, le=1)

    @abstractmethod
    def rate(self, step: int, per_epoch: int) -> float:
        """Learning rate at ``step``, counted from 0 over all epochs of ``per_epoch`` steps."""
        ...


class TuneOptions(LoopOptions):
    """Dassl's schedule: warm-up epochs at a constant rate, then half a cosine, once per epoch, from the full rate.

    Attributes:
        warmup_epochs: Epochs at ``warmup_rate`` before the schedule starts.
        warmup_rate: Learning rate of the warm-up.
    """

    warmup_epochs: int = Field(default=1, ge=0)
    warmup_rate: float = 1e-5

    def rate(self, step: int, per_epoch: int) -> float:
        """The same in all steps of an epoch."""
        epoch = step // per_epoch
        if epoch < self.warmup_epochs:
            return self.warmup_rate
        return 0.5 * self.learning_rate * (1 + math.cos(math.pi * (epoch - self.warmup_epochs) / self.epochs))


def tune(
    parameters: Sequence[nn.Parameter],
    data: Labelled,
    loss: Callable[[Tensor, Tensor, int], Tensor],
    options: LoopOptions,
    label: str,
) -> list[float]:
    """Minimise ``loss`` over few-shot data.

    Args:
        parameters: What to tune; they go to the device that computes, and stay there.
        data: Images and labels; they go there batch by batch.
        loss: From images, labels and epoch (from 0) to a scalar.
        options: Optimiser and schedule.
        label: Name for the progress bar.

    Returns:
        Mean loss of each epoch.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    there = compute_device()
    # In place: whoever holds one of the parameters sees it move.
    nn.ParameterList(parameters).to(there)
    optimizer = _optimizer(parameters, options)
    history, steps, per_epoch = list[float](), count(), -(-len(data.labels) // options.batch_size)
    for epoch in track(range(options.epochs), label):
        total = 0.0
        for rows in shuffled(len(data.labels), options.batch_size):
            rate = options.rate(next(steps), per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            images = data.images[rows].to(there)
            images = _augmented(images, options.crop) if options.augment else images
            value = loss(images, data.labels[rows].to(there), epoch)
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


def _optimizer(parameters: Sequence[nn.Parameter], options: LoopOptions) -> torch.optim.Optimizer:
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
    return torch.optim.SGD(parameters, lr=options.learning_rate, momentum=0.9, weight_decay=options.weight_decay)


def _augmented(images: Tensor, least: float) -> Tensor:
    """Each image cropped, to at least a share ``least`` of its area, and flipped on its own."""
    size = list(images.shape[-2:])
    crop = v2.RandomResizedCrop(size, scale=(least, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    transform = v2.Compose([crop, v2.RandomHorizontalFlip()])
    return torch.stack([transform(image) for image in images]).clamp(0, 1)
