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

from bench.attacks.feature_attack import divergence_from
from bench.clip.classifier import Classifier
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import TextEdits
from bench.defenses.adversarial import AttackOptions, perturb
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.prompting import refuse_edited
from bench.defenses.tuning import tune

TUNES_ON: TunesOn = "labels"


class Options(AttackOptions):
    """The official code's settings, with NAP-Tuning's radius (the code trains with 8 and tests with 16).

    Steps of the stored attack are 1.25 eps / steps if not given.

    Attributes:
        context: Number of context vectors.
    """

    learning_rate: float = Field(default=0.002, gt=0)
    epochs: int = Field(default=200, gt=0)
    # Stored embeddings cannot be cropped.
    augment: Literal[False] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    context: int = Field(default=32, gt=0)
    attack_steps: int = Field(default=10, ge=0)

    @property
    def step_size(self) -> float:
        """Step size in /255."""
        return 1.25 * self.eps / max(1, self.attack_steps) if self.step is None else self.step


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune ``context`` ``(n, width)``."""
    assert isinstance(data, Labelled)
    refuse_edited(victim, "advpt", image=False)
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
    refuse_edited(victim, "advpt", image=False)
    return replace(victim, text_edits=TextEdits(context=tensors["context"]))


def adversarial_embeddings(victim: DefendedCLIP, images: Tensor, options: Options) -> Tensor:
    """Image embeddings ``(n, d)`` after the label-free attack on the image tower."""
    tower = Classifier(victim.image, victim.staged.embedding_width)
    attacked = perturb(divergence_from(images, tower), images, options)
    with torch.no_grad():
        return tower(attacked)
