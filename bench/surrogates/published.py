"""A surrogate with published weights: any CLIP that open_clip knows, with a ResNet, ConvNeXt or transformer tower."""

from pathlib import Path
from typing import Any

import open_clip
from torch import nn

from bench.clip.defended import Task
from bench.clip.model import Base, Clip, check_published
from bench.config import Options as Closed
from bench.errors import unknown
from bench.surrogates.contract import Gives, Tensors
from bench.surrogates.plain import zero_shot

GIVES: Gives = "logits"


class Options(Closed):
    """Which model.

    Attributes:
        architecture: A model name of open_clip.
        weights: One of its tags, or ``random``.
    """

    architecture: str = "RN50-quickgelu"
    weights: str = "openai"


def make(options: Options, data: Path) -> Tensors:
    """Get the weights.

    Raises:
        UserError: The architecture or the weights are unknown, or do not belong together.
    """
    del data
    if options.architecture not in open_clip.list_models():
        raise unknown("architecture", options.architecture, open_clip.list_models(), "surrogates: architecture")
    if options.weights == "random":
        return open_clip.create_model(options.architecture).state_dict()
    check_published(Base(architecture=options.architecture, weights=options.weights))
    return open_clip.create_model(options.architecture, pretrained=options.weights).state_dict()


def restore(tensors: Tensors, options: Options, task: Task) -> nn.Module:
    """The zero-shot classifier for ``task``."""
    return zero_shot(clip(tensors, options), task)


def clip(tensors: Tensors, options: Options) -> Clip:
    """The model itself."""
    model: Any = open_clip.create_model(options.architecture)
    model.load_state_dict(tensors)
    sides = model.visual.image_size
    size = sides[0] if isinstance(sides, tuple) else sides
    tokenize = open_clip.get_tokenizer(options.architecture)
    mean, std = model.visual.image_mean, model.visual.image_std
    return Clip(options.architecture, model.eval(), tokenize, size, tuple(mean), tuple(std))
