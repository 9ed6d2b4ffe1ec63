"""A small CLIP of another shape than the mini CLIP's, trained as that was, on other images of the same world.

Its weights, its images and its text tower are its own; the vocabulary and the way captions are written are shared, as
published CLIPs share the web's.
"""

from pathlib import Path
from typing import Literal

import open_clip
import torch
from pydantic import Field
from torch import nn

from bench.clip.defended import Task
from bench.clip.model import Clip
from bench.clip.pretrain import PretrainOptions, pretrain
from bench.clip.small import MEAN, STD, vocabulary
from bench.clip.tokenizer import WordTokenizer
from bench.datasets import world
from bench.surrogates.contract import Gives, Tensors
from bench.surrogates.plain import zero_shot

GIVES: Gives = "logits"
_CONTEXT_LENGTH, _EMBEDDING, _TEXT_WIDTH, _HEAD_WIDTH = 24, 64, 64, 32


class Options(PretrainOptions):
    """About a minute and a half of training on two cores.

    Attributes:
        tower: CLIP's modified ``resnet``, or a ``vit``.
        width: Channels of the first stage, or width of the tokens.
        layers: Blocks; a ResNet has as many in each of its four stages.
        patch_size: Side of a ViT's patches, in pixels.
    """

    learning_rate: float = 2e-3
    warmup_steps: int = 50
    steps: int = 600
    # The shipped mini CLIP's images belong to seed 1.
    seed: int = 2
    tower: Literal["resnet", "vit"] = "resnet"
    width: int = Field(default=16, gt=0)
    layers: int = Field(default=1, gt=0)
    patch_size: int = Field(default=8, gt=0)


def make(options: Options, data: Path) -> Tensors:
    """Train the CLIP from scratch."""
    del data
    torch.manual_seed(options.seed)
    return pretrain(options, build(options)).model.state_dict()


def restore(tensors: Tensors, options: Options, task: Task) -> nn.Module:
    """The zero-shot classifier for ``task``."""
    clip = build(options)
    clip.model.load_state_dict(tensors)
    return zero_shot(clip, task)


def build(options: Options) -> Clip:
    """The CLIP with random weights."""
    words = WordTokenizer(vocabulary(), _CONTEXT_LENGTH)
    if options.tower == "resnet":
        blocks = (options.layers, options.layers, options.layers, options.layers)
        image = open_clip.CLIPVisionCfg(image_size=world.SIDE, width=options.width, layers=blocks)
    else:
        image = open_clip.CLIPVisionCfg(
            image_size=world.SIDE,
            width=options.width,
            layers=options.layers,
            patch_size=options.patch_size,
            head_width=_HEAD_WIDTH,
        )
    text = open_clip.CLIPTextCfg(
        context_length=_CONTEXT_LENGTH, vocab_size=words.vocab_size, width=_TEXT_WIDTH, heads=2, layers=2
    )
    model = open_clip.CLIP(_EMBEDDING, image, text)
    return Clip(f"a small {options.tower}", model, words, world.SIDE, MEAN, STD)
