"""How fast this machine is, measured on a few batches: what ``estimate`` reckons with.

Speed does not depend on what the weights are, so all models have random ones, and nothing is downloaded.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.backdoors.make import TrainOptions, fine_tune
from bench.backdoors.poison import Poisoned
from bench.clip.classifier import predict, zero_shot
from bench.clip.defended import PLACEHOLDER, DefendedCLIP, Task
from bench.clip.model import Clip, build
from bench.clip.staged import StagedCLIP
from bench.datasets.store import Split
from bench.defenses.artefact import Part
from bench.defenses.contract import Labelled, Pairs
from bench.device import compute_device
from bench.memory import peak_memory_mb

# A backward pass costs twice a forward one.
GRADIENT = 3
_BATCHES = 2
_MOST_TUNED = 32


class Passes(NamedTuple):
    """Seconds per image."""

    forward_s: float
    gradient_s: float


class Tuning(NamedTuple):
    """Seconds per image of a defense's data: before tuning starts, and each time that tuning sees it."""

    once_s: float
    seen_s: float


class Meter(Protocol):
    """Where speeds come from; tests put fixed ones in."""

    def passes(self, architecture: str, batch_size: int) -> Passes:
        """Speed of classifying, forward only and with the gradient of the input."""
        ...

    def pair_s(self, architecture: str, batch_size: int) -> float:
        """Seconds per image-caption pair of contrastive training."""
        ...

    def tuning(self, architecture: str, part: Part, task: Task) -> Tuning:
        """Speed of a defense's ``fit``."""
        ...

    def question_s(self, architecture: str) -> float:
        """Seconds of a large vision-language model for one question, its image and its answer."""
        ...

    def peak_memory_mb(self) -> float:
        """Most memory so far."""
        ...


class Stopwatch:
    """Measures each speed once: a batch to warm up, then two that count."""

    def __init__(self) -> None:
        """Build models only when they are asked for."""
        self._clip: Callable[[str], Clip] = cache(build)

    def passes(self, architecture: str, batch_size: int) -> Passes:
        """See ``Meter``; on a zero-shot classifier for ten classes."""
        clip, there = self._clip(architecture), compute_device()
        model = zero_shot(StagedCLIP(clip), [PLACEHOLDER] * 10, "{}")
        images, labels = _images(clip, batch_size).to(there), torch.zeros(batch_size, dtype=torch.int64).to(there)

        def gradient() -> None:
            inputs = images.clone().requires_grad_()
            loss = functional.cross_entropy(model(inputs), labels, reduction="sum")
            torch.autograd.grad(loss, inputs)[0].sum().item()  # a number to wait for: accelerators go on alone

        return Passes(*(_timed(step) / batch_size for step in (lambda: predict(model, images, batch_size), gradient)))

    def pair_s(self, architecture: str, batch_size: int) -> float:
        """See ``Meter``; optimiser included."""
        clip = build(architecture)
        images = (_images(clip, batch_size) * 255).to(torch.uint8)
        captions = [_caption()] * batch_size
        pairs = Poisoned(Split(images.numpy(), np.empty(0, np.int64), captions), {}, captions)
        options = TrainOptions(batch_size=batch_size, epochs=1)
        return _timed(lambda: fine_tune(clip, pairs, options, 0, "a trial")) / batch_size

    def tuning(self, architecture: str, part: Part, task: Task) -> Tuning:
        """See ``Meter``; from ``fit`` with one and with three passes over one batch of at most 32 images."""
        clip = self._clip(architecture)
        clip.model.requires_grad_(False)
        victim, known = DefendedCLIP(StagedCLIP(clip)), type(part.options).model_fields
        count = min(_MOST_TUNED, getattr(part.options, "batch_size", _MOST_TUNED))
        data = _pairs(clip, count) if part.module.TUNES_ON == "pairs" else _labelled(clip, count, task)

        def fit(times: int) -> None:
            trial = {"epochs": times, "steps": times, "batch_size": count}
            options = part.options.model_copy(update={key: value for key, value in trial.items() if key in known})
            with torch.random.fork_rng(devices=[]):
                part.module.fit(victim, data, options)

        fit(1)
        one, three = (_timed(lambda times=times: fit(times), batches=1, warm=False) for times in (1, 3))
        seen = max(0.0, (three - one) / 2)
        return Tuning(max(0.0, one - seen) / count, seen / count)

    def question_s(self, architecture: str) -> float:
        """See ``Meter``; with answers of the greatest length."""
        from bench.lvlm.libraries import check_libraries

        check_libraries()
        from bench.lvlm.answering import answer
        from bench.lvlm.loading import build as build_lvlm

        lvlm, asked = build_lvlm(architecture), ["what shape is the object?"] * _MOST_TUNED
        stream = torch.Generator().manual_seed(0)
        images = torch.rand(len(asked), 3, lvlm.image_size, lvlm.image_size, generator=stream)
        return _timed(lambda: answer(lvlm, images, asked)) / len(asked)

    def peak_memory_mb(self) -> float:
        """Most memory that this process has had so far; on an accelerator, that its tensors have had."""
        return peak_memory_mb()


def _timed(step: Callable[[], Any], batches: int = _BATCHES, *, warm: bool = True) -> float:
    """Seconds that ``step`` takes, on average."""
    if warm:
        step()
    start = time.perf_counter()
    for _ in range(batches):
        step()
    return (time.perf_counter() - start) / batches


def _images(clip: Clip, count: int) -> Tensor:
    return torch.rand(count, 3, clip.image_size, clip.image_size, generator=torch.Generator().manual_seed(0))


def _labelled(clip: Clip, count: int, task: Task) -> Labelled:
    return Labelled(_images(clip, count), torch.arange(count) % len(task.class_names), task)


def _pairs(clip: Clip, count: int) -> Pairs:
    return Pairs((_images(clip, count) * 255).to(torch.uint8), [_caption()] * count)


def _caption() -> str:
    return " ".join([PLACEHOLDER] * 8)
