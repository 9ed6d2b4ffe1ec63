"""NAP-Tuning (Zhang et al., 2025): deep prompts in both towers, and token refiners that undo adversarial drift.

At each layer a small residual network refines the tokens that are not prompts; then fresh prompts are put beside them
(equation 11: refine first, then concatenate). Trained with clean plus adversarial cross-entropy, the latter weighted by
a sigmoid schedule (equations 14 and 17). There is no official repository; unstated details follow the authors'
development code and are options: refiners start from PyTorch's default initialisation (so the model is not CLIP at the
start) and layer 1 has no refiner. Where that code departs from the paper the paper is the default: text is refined,
prompts of the towers are independent, and the losses have the weights of equation 14.
"""

import math
from dataclasses import replace
from itertools import count, pairwise
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from bench.clip.defended import DefendedCLIP
from bench.clip.staged import StagedCLIP, Trace
from bench.defenses.adversarial import AttackOptions, attack_model
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.prompting import Layout, PromptOptions, Prompts, refuse_edited
from bench.defenses.tuning import tune

TUNES_ON: TunesOn = "labels"


class Options(AttackOptions, PromptOptions):
    """The paper's settings. The training attack starts at the clean image; its steps are 1.5 eps / steps.

    Attributes:
        image_length: Prompts per layer of the image tower, if other than ``length``.
        coupling: ``independent`` prompts (the paper's equations), or MaPLe's ``text_to_image`` (the development code).
        refiner_layers: Linear layers in each refiner; 0 is no refiner.
        refiner_width: Width of a refiner's hidden layers, as a multiple of the tower's.
        refiner_activation: Between a refiner's layers.
        refine_first: Refine the input of layer 1 too (equation 11 read literally).
        refine_text: Refine text tokens too (the paper); off is the development code.
        zero_init: Start refiners at the identity (our option; the development code does not).
        weighting: Weights of the clean and adversarial losses: ``sigmoid`` is 1 and equation 17, ``linear`` 1 - t and t
            with t the share of training done, ``equal`` a half each (the last two are the development code's).
        weighted_by: What t counts: whole epochs, or steps.
        alpha: Final weight of the adversarial loss in ``sigmoid``.
        consistency: Weight of one minus the cosine of clean and attacked image tokens, averaged over layers (the
            development code's; the paper has none).
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    epochs: int = Field(default=90, gt=0)
    batch_size: int = Field(default=512, gt=0)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    warmup_rate: float = 1e-6
    attack_steps: int = Field(default=5, ge=0)
    length: int = Field(default=16, gt=0)
    image_length: int | None = Field(default=None, gt=0)
    depth: int = Field(default=12, gt=0)
    coupling: Literal["independent", "text_to_image"] = "independent"
    refiner_layers: int = Field(default=2, ge=0)
    refiner_width: float = Field(default=2.0, gt=0)
    refiner_activation: Literal["relu", "gelu"] = "relu"
    refine_first: bool = False
    refine_text: bool = True
    zero_init: bool = False
    weighting: Literal["sigmoid", "linear", "equal"] = "sigmoid"
    weighted_by: Literal["epoch", "step"] = "epoch"
    alpha: float = Field(default=5.0, ge=0)
    consistency: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.coupling != "independent" and self.image_length not in (None, self.length):
            raise ValueError("image_length must be length where image prompts are projected from text prompts")
        return self

    @property
    def step_size(self) -> float:
        """Step size in /255."""
        return 1.5 * self.eps / max(1, self.attack_steps) if self.step is None else self.step


class Refiner(nn.Module):
    """A residual network on single tokens: from the tower's width through wider layers and back."""

    def __init__(self, width: int, options: Options) -> None:
        """Make a refiner of ``options.refiner_layers`` linear layers, at least one."""
        super().__init__()
        sizes = [width, *[int(options.refiner_width * width)] * (options.refiner_layers - 1), width]
        linears = [nn.Linear(inner, outer) for inner, outer in pairwise(sizes)]
        if options.zero_init:
            nn.init.zeros_(linears[-1].weight)
            nn.init.zeros_(linears[-1].bias)
        activation = {"relu": nn.ReLU, "gelu": nn.GELU}[options.refiner_activation]
        between = [part for linear in linears[:-1] for part in (linear, activation())]
        self.layers = nn.Sequential(*between, linears[-1])

    def forward(self, tokens: Tensor) -> Tensor:
        """Refined tokens."""
        return tokens + self.layers(tokens)


class Augmentor(nn.Module):
    """All that is tuned: prompts and refiners of both towers. Keys of refiners are layers, from 1."""

    def __init__(self, staged: StagedCLIP, options: Options, template: str = "") -> None:
        """Fit the options to the depth and width of the towers."""
        super().__init__()
        layout = Layout(options.coupling, options.length, options.depth, image_length=options.image_length)
        self.prompts = Prompts(staged, layout, template)
        self.image = _refiners(staged.image_width, len(staged.image_blocks), options)
        self.text = _refiners(staged.text_width, len(staged.text_blocks) if options.refine_text else 0, options)

    def apply_to(self, victim: DefendedCLIP) -> DefendedCLIP:
        """``victim`` with these prompts and refiners in its towers."""
        model = self.prompts.apply_to(victim)
        image, text = ({int(layer): refiner for layer, refiner in part.items()} for part in (self.image, self.text))
        return replace(
            model,
            image_edits=replace(model.image_edits, refine=image),
            text_edits=replace(model.text_edits, refine=text),
        )


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune prompts and refiners; the keys are those of ``Augmentor``."""
    assert isinstance(data, Labelled)
    refuse_edited(victim, "nap_tuning")
    augmentor, task = Augmentor(victim.staged, options, data.task.template), data.task
    steps, per_epoch = count(), -(-len(data.labels) // options.batch_size)

    def loss(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        model, trace = augmentor.apply_to(victim), Trace(every_token=options.consistency > 0)
        texts = model.texts(task)
        attacked = attack_model(model, images, labels, texts, options, random_start=False)
        logits = model.logits(torch.cat([images, attacked]), texts, trace)
        natural, adversarial = (functional.cross_entropy(part, labels) for part in logits.chunk(2))
        done = next(steps) / per_epoch if options.weighted_by == "step" else epoch
        clean_weight, adversarial_weight = loss_weights(done / options.epochs, options)
        total = clean_weight * natural + adversarial_weight * adversarial
        return total + options.consistency * drift(trace) if options.consistency else total

    tune(list(augmentor.parameters()), data, loss, options, "nap_tuning")
    return {name: tensor.detach() for name, tensor in augmentor.state_dict().items()}


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with prompts and refiners in both towers, for any class list."""
    refuse_edited(victim, "nap_tuning")
    augmentor = Augmentor(victim.staged, options)
    augmentor.load_state_dict(tensors)
    with torch.no_grad():
        return augmentor.requires_grad_(False).apply_to(victim)


def loss_weights(progress: float, options: Options) -> tuple[float, float]:
    """Weights of the clean and the adversarial loss at a share of training."""
    if options.weighting == "equal":
        return 0.5, 0.5
    if options.weighting == "linear":
        return 1 - progress, progress
    return 1.0, options.alpha / (1 + math.exp(-10 * (progress - 0.5)))


def drift(trace: Trace) -> Tensor:
    """Mean over images and layers of one minus the cosine of clean and attacked tokens, all tokens of a layer as one.

    Args:
        trace: Pass of ``2 n`` images, clean ones first, with every token.
    """
    halves = [tokens.flatten(1).chunk(2) for tokens in trace.tokens]
    return torch.stack([1 - functional.cosine_similarity(clean, moved, dim=-1) for clean, moved in halves]).mean()


def _refiners(width: int, blocks: int, options: Options) -> nn.ModuleDict:
    layers = range(1 if options.refine_first else 2, min(options.depth, blocks) + 1) if options.refiner_layers else ()
    return nn.ModuleDict({str(layer): Refiner(width, options) for layer in layers})
