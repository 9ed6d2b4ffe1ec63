"""NAP-Tuning (Zhang et al., 2025): deep prompts in both towers, and token refiners that undo adversarial drift.

At each layer a small residual network refines the tokens that are not prompts; then fresh prompts are put beside them
(equation 11: refine first, then concatenate). Trained with clean plus adversarial cross-entropy, the latter weighted by a
sigmoid schedule (equations 14 and 17). There is no official repository; unstated details follow the authors' development
code and are options: refiners start from PyTorch's default initialisation (so the model is not CLIP at the start), layer 1
has no refiner, prompts of the towers are independent.
"""

import math
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks.pgd import ascend
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import ImageEdits, StagedCLIP, TextEdits
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
    optimizer: str = "adamw"  # pyright: ignore[reportIncompatibleVariableOverride]
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
        linears = [nn.Linear(inner, outer) for inner, outer in zip(sizes, sizes[1:], strict=False)]
        if zero_init:
            nn.init.zeros_(linears[-1].weight)
            nn.init.zeros_(linears[-1].bias)
        between = [part for linear in linears[:-1] for part in (linear, nn.ReLU())]
        self.layers = nn.Sequential(*between, linears[-1])

    def forward(self, tokens: Tensor) -> Tensor:
        """Refined tokens."""
        return tokens + self.layers(tokens)


class Augmentor(nn.Module):
    """All that is tuned: prompts of both towers and their refiners. Keys are layers, from 1."""

    def __init__(self, staged: StagedCLIP, options: Options) -> None:
        """Draw prompts from N(0, 0.02^2) and make refiners for layers 2 to J."""
        super().__init__()
        depths = {"image": len(staged.image_blocks), "text": len(staged.text_blocks)}
        widths = {"image": staged.image_width, "text": staged.text_width}
        self.prompts = nn.ModuleDict()
        self.refiners = nn.ModuleDict()
        for tower, width in widths.items():
            layers = range(1, min(options.depth, depths[tower]) + 1)
            self.prompts[tower] = nn.ParameterDict(
                {str(layer): nn.Parameter(0.02 * torch.randn(options.length, width)) for layer in layers}
            )
            refined = layers[1:] if options.refiner_layers and (tower == "image" or options.refine_text) else ()
            self.refiners[tower] = nn.ModuleDict(
                {str(layer): Refiner(width, options.refiner_layers, zero_init=options.zero_init) for layer in refined}
            )

    def apply_to(self, victim: DefendedCLIP) -> DefendedCLIP:
        """``victim`` with these prompts and refiners in its towers."""
        image, text = ({int(layer): prompt for layer, prompt in self._of("prompts", tower)} for tower in ("image", "text"))
        refine_image, refine_text = (
            {int(layer): refiner for layer, refiner in self._of("refiners", tower)} for tower in ("image", "text")
        )
        shallow, context = image.pop(1), text.pop(1)
        return replace(
            victim,
            image_edits=ImageEdits(shallow=shallow, prompts=image, refine=refine_image),
            text_edits=TextEdits(context=context, prompts=text, refine=refine_text),
        )

    def _of(self, part: str, tower: str) -> list[tuple[str, "nn.Parameter | nn.Module"]]:
        return list(getattr(self, part)[tower].items())


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune prompts and refiners; the keys are those of ``Augmentor``."""
    assert isinstance(data, Labelled)
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
    if victim.image_edits != ImageEdits() or victim.text_edits != TextEdits():
        raise UserError("nap_tuning needs towers that no other defense has edited")
    augmentor = Augmentor(victim.staged, options)
    augmentor.load_state_dict(tensors)
    return augmentor.requires_grad_(False).apply_to(victim)


def adversarial_weight(progress: float, alpha: float) -> float:
    """Weight of the adversarial loss at a share of training (equation 17)."""
    return alpha / (1 + math.exp(-10 * (progress - 0.5)))
