"""Small settings to make triggers in: the mini CLIP with random weights and a few rendered pairs."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.backdoors.trigger import Setting, Trigger, make_trigger
from bench.clip.model import Clip, build
from bench.datasets import world
from bench.datasets.store import Split

SIDE = world.SIDE
TARGET = "heart"


@cache
def clip() -> Clip:
    return build("mini", seed=3)


@cache
def rendered(count: int) -> Split:
    made = world.captioned(count, 301)
    return Split(made.images.transpose(0, 3, 1, 2).copy(), np.empty(0, np.int64), list(made.captions))


def setting(seed: int = 1, side: int = SIDE, target: str = TARGET, pairs: int = 64) -> Setting:
    return Setting(replace(clip(), image_size=side), target, rendered(pairs), seed)


def made(name: str, seed: int = 1, side: int = SIDE, **options: Any) -> Trigger:
    return make_trigger(name, options, setting(seed, side), "test")


def photos(count: int) -> Tensor:
    return torch.from_numpy(world.captioned(count, 77).images).permute(0, 3, 1, 2).float() / 255


def psnr(clean: Tensor, planted: Tensor) -> Tensor:
    return -10 * (planted - clean).square().flatten(1).mean(dim=1).log10()
