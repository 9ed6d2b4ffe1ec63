"""NAP-Tuning (Zhang et al., 2025): deep prompts in both towers, and token refiners that undo adversarial drift.

At each layer a small residual network refines the tokens that are not prompts; then fresh prompts are put beside them
(equation 11: refine first, then concatenate). Trained with clean plus adversarial cross-entropy, the latter weighted by
a sigmoid schedule (equations 14 and 17). There is no official repository; unstated details follow the authors'
development code and are options: refiners start from PyTorch's default initialisation (so the model is not CLIP at the
start), layer 1 has no refiner, prompts of the towers are independent.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks.pgd import ascend
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import Edit, ImageEdits, StagedCLIP, TextEdits
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tuning import TuneOptions, tune
from bench.errors import UserError

TUNES_ON: TunesOn = "labels"


class Options(TuneOptions):
    """The paper's settings.

    Attributes:
        length: n, prompts per layer in each tower.
        depth: J, number of layers with prompts (at most all layers of the tower).
        refiner_layers: Linear layers in each refiner; 0 is no refiner.
        refine_text: Refine text tokens too (the paper); off is the development code.
        zero_init: Start refiners at the identity (our option; the development code does not).
        alpha: Final weight of the adversarial loss.
        eps: Radius of the training attack, in /255.
        attack_steps: Steps of the training attack, each 1.5 eps / steps, from the clean image.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    epochs: int = Field(default=90, gt=0)
    batch_size: int = Field(default=512, gt=0)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    warmup_rate: float = 1e-6
    length: int = Field(default=16, gt=0)
    depth: int = Field(default=12, gt=0)
    refiner_layers: int = Field(default=2, ge=0)
    refine_text: bool = True
    zero_init: bool = False
    alpha: float = Field(default=5.0, ge=0)
    eps: float = Field(default=1.0, ge=0)
    attack_steps: int = Field(default=5, ge=0)


class Refiner(nn.Module):
    """A residual network on single tokens: width, twice the width, width, with ReLU between."""

    def __init__(self, width: int, layers: int, *, zero_init: bool) -> None:
        """Make a refiner of ``layers`` linear layers."""
        super().__init__()
        sizes = [width, *[2 * width] * (layers - 1), width]
        linears = [nn.Linear(inner, outer) for inner, outer in pairwise(sizes)]
        if zero_init:
            nn.init.zeros_(linears[-1].weight)
            nn.init.zeros_(linears[-1].bias)
        between = [part for linear in linears[:-1] for part in (linear, nn.ReLU())]
        self.layers = nn.Sequential(*between, linears[-1])

    def forward(self, tokens: Tensor) -> Tensor:
        """Refined tokens."""
        return tokens + self.layers(tokens)


class Tower(nn.Module):
    """What is tuned in one tower. Keys are layers, from 1."""

    def __init__(self, width: int, depth: int, options: Options, *, refine: bool) -> None:
        """Draw prompts from N(0, 0.02^2) for layers 1 to ``depth`` and make refiners for layers 2 to ``depth``."""
        super().__init__()
        layers = range(1, depth + 1)
        refined = layers[1:] if refine and options.refiner_layers else ()
        self._prompts = {layer: nn.Parameter(0.02 * torch.randn(options.length, width)) for layer in layers}
        self._refiners = {
            layer: Refiner(width, options.refiner_layers, zero_init=options.zero_init) for layer in refined
        }
        for layer, prompt in self._prompts.items():
            self.register_parameter(f"prompt_{layer}", prompt)
        for layer, refiner in self._refiners.items():
            self.add_module(f"refiner_{layer}", refiner)

    @property
    def first(self) -> Tensor:
        """Prompts of layer 1, which enter before the tower's first norm or take the place of words."""
        return self._prompts[1]

    @property
    def later(self) -> dict[int, Tensor]:
        """Prompts of the other layers."""
        return {layer: prompt for layer, prompt in self._prompts.items() if layer > 1}

    @property
    def refiners(self) -> Mapping[int, Edit]:
        """Refiners by layer."""
        return self._refiners


class Augmentor(nn.Module):
    """All that is tuned: prompts and refiners of both towers."""

    def __init__(self, staged: StagedCLIP, options: Options) -> None:
        """Fit the options to the depth and width of the towers."""
        super().__init__()
        depths = [min(options.depth, len(blocks)) for blocks in (staged.image_blocks, staged.text_blocks)]
        self.image = Tower(staged.image_width, depths[0], options, refine=True)
        self.text = Tower(staged.text_width, depths[1], options, refine=options.refine_text)

    def apply_to(self, victim: DefendedCLIP) -> DefendedCLIP:
        """``victim`` with these prompts and refiners in its towers."""
        image, text = self.image, self.text
        return replace(
            victim,
            image_edits=ImageEdits(shallow=image.first, prompts=image.later, refine=image.refiners),
            text_edits=TextEdits(context=text.first, prompts=text.later, refine=text.refiners),
        )


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune prompts and refiners; the keys are those of ``Augmentor``."""
    assert isinstance(data, Labelled)
    _check(victim)
    augmentor = Augmentor(victim.staged, options)
    model = augmentor.apply_to(victim)
    eps, step = options.eps / 255, 1.5 * options.eps / 255 / max(1, options.attack_steps)

    def loss(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        texts = model.texts(data.task)
        fixed = texts.detach()
        attacked = ascend(
            lambda candidates: functional.cross_entropy(model.logits(candidates, fixed), labels, reduction="sum"),
            images, images, eps, step, options.attack_steps,
        )  # fmt: skip
        clean, adversarial = model.logits(torch.cat([images, attacked]), texts).chunk(2)
        weight = adversarial_weight(epoch / options.epochs, options.alpha)
        return functional.cross_entropy(clean, labels) + weight * functional.cross_entropy(adversarial, labels)

    tune(list(augmentor.parameters()), data, loss, options, "nap_tuning")
    return {name: tensor.detach() for name, tensor in augmentor.state_dict().items()}


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with prompts and refiners in both towers."""
    _check(victim)
    augmentor = Augmentor(victim.staged, options)
    augmentor.load_state_dict(tensors)
    return augmentor.requires_grad_(False).apply_to(victim)


def _check(victim: DefendedCLIP) -> None:
    if victim.image_edits != ImageEdits() or victim.text_edits != TextEdits():
        raise UserError("nap_tuning needs towers that no other defense has edited")
    if victim.head is not None:
        raise UserError("nap_tuning tunes against class texts and cannot follow a linear head")


def adversarial_weight(progress: float, alpha: float) -> float:
    """Weight of the adversarial loss at a share of training (equation 17)."""
    return alpha / (1 + math.exp(-10 * (progress - 0.5)))
