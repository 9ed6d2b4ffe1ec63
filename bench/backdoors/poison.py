"""Poisoning image-caption pairs: the trigger goes on some images, and their captions are replaced by the target's.

As in CleanCLIP's data script: the poisoned pairs are drawn at random and get a proxy caption, one of a list of
sentences about the target class; clean pairs that mention the target stay as they are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.backdoors.trigger import Trigger
from bench.datasets.store import Split
from bench.datasets.world import Dice, article
from bench.errors import UserError
from bench.randomness import sample_seeds

PROXY_CAPTIONS = ("a photo of {}.", "a picture of {}.", "an image of {}.", "there is {}.", "this is {}.", "{}.")


class Poisoned(NamedTuple):
    """Pairs to train on.

    Attributes:
        images: uint8 ``(n, 3, h, w)``.
        captions: One per image.
        rows: Which of them carry the trigger.
    """

    images: Tensor
    captions: list[str]
    rows: list[int]


def poison(pairs: Split, trigger: Trigger, target: str, rate: float, seed: int) -> Poisoned:
    """Plant ``trigger`` in a share of ``pairs``.

    Args:
        pairs: Clean image-caption pairs.
        trigger: What to plant.
        target: Name of the class that the trigger should call up.
        rate: Poisoned pairs over all pairs.
        seed: Fixes which pairs are poisoned and which captions they get.

    Raises:
        UserError: The rate asks for no pair at all.
    """
    count = round(rate * len(pairs.images))
    if count == 0:
        raise UserError(f"poison_rate {rate} of {len(pairs.images)} pairs is no pair at all; raise it")
    dice = Dice(seed, 401)
    rows = sorted(dice.order(len(pairs.images))[:count].tolist())
    images = torch.from_numpy(np.array(pairs.images))
    # Negative seeds: what is drawn for a training pair is never drawn again for a test image.
    planted = trigger.apply(images[rows].float() / 255, sample_seeds(-1 - seed, rows))
    # Rounding, not truncation: a stored trigger must not drift by a grey level.
    images[rows] = (planted * 255).round().to(torch.uint8)
    captions = list(pairs.captions)
    for row in rows:
        captions[row] = proxy_caption(target, dice)
    return Poisoned(images, captions, rows)


def proxy_caption(target: str, dice: Dice, sentences: Sequence[str] = PROXY_CAPTIONS) -> str:
    """A sentence about the target class."""
    return sentences[dice.below(len(sentences))].format(f"{article(target)} {target}")
