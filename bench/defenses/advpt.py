"""AdvPT, Adversarial Prompt Tuning (Zhang et al., ECCV 2024): text context for stored adversarial image embeddings.

The attack on the training images runs once, before tuning, on the frozen image tower and without any text: it raises
the KL divergence between the softmaxed clean and adversarial embeddings (the NAP-Tuning paper writes the objective
without the softmax; the official code has it, and so have we). Context vectors are then tuned with cross-entropy on
these embeddings alone; the image tower is never touched.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks import feature_attack
from bench.clip.classifier import Classifier
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import TextEdits
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tuning import TuneOptions, tune
from bench.errors import UserError

TUNES_ON: TunesOn = "labels"
BUILDS_ON = (feature_attack,)


class Options(TuneOptions):
    """The official code's settings, with NAP-Tuning's radius.

    Attributes:
        context: Number of context vectors.
        eps: Radius of the stored attack, in /255 (the official code trains with 8 and tests with 16).
        attack_steps: Steps of the stored attack, each 1.25 eps / steps.
    """

    learning_rate: float = Field(default=0.002, gt=0)
    epochs: int = Field(default=200, gt=0)
    # Stored embeddings cannot be cropped.
    augment: Literal[False] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    context: int = Field(default=32, gt=0)
    eps: float = Field(default=1.0, ge=0)
    attack_steps: int = Field(default=10, ge=0)


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune ``context`` ``(n, width)``."""
    assert isinstance(data, Labelled)
    _check(victim)
    bank = torch.cat([adversarial_embeddings(victim, images, options) for images in data.images.split(128)])
    context = nn.Parameter(0.02 * torch.randn(options.context, victim.staged.text_width))
    prompted = replace(victim, text_edits=TextEdits(context=context))
    scale = victim.staged.clip.model.logit_scale.detach().exp()

    def loss(embeddings: Tensor, labels: Tensor, epoch: int) -> Tensor:
        del epoch
        return functional.cross_entropy(scale * embeddings @ prompted.texts(data.task).T, labels)

    stored = Labelled(functional.normalize(bank, dim=-1), data.labels, data.task)
    tune([context], stored, loss, options, "advpt")
    return {"context": context.detach()}


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the learned context in the place of the template."""
    del options
    _check(victim)
    return replace(victim, text_edits=TextEdits(context=tensors["context"]))


def _check(victim: DefendedCLIP) -> None:
    if victim.text_edits != TextEdits() or victim.head is not None:
        raise UserError("advpt needs a text tower that no other defense has edited or replaced by a head")


def adversarial_embeddings(victim: DefendedCLIP, images: Tensor, options: Options) -> Tensor:
    """Image embeddings ``(n, d)`` after the label-free attack on the image tower."""
    tower = Classifier(victim.image, victim.staged.embedding_width)
    eps = options.eps / 255
    start = (images + torch.empty_like(images).uniform_(-eps, eps)).clamp(0, 1)
    attacked = feature_attack.raise_divergence(tower, images, start, eps, options.attack_steps)
    with torch.no_grad():
        return tower(attacked)
