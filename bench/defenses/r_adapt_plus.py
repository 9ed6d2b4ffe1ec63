"""R-Adapt+: the anchor of R-Adapt, tuned with cross-entropy on a few attacked images (equation 8).

It starts at CLIP's answer to a white image; the filter is on, all weights stay frozen, and the tuned anchor serves
every later task. The paper states 2,000 images, 10 epochs and eps 4. It leaves open how the images are attacked and how
the anchor is optimised. Its appendix makes the attacked images first, so by default they are made once, on the
undefended model (``online: false``); ``online: true`` attacks through filter and anchor in every step. Ten steps of 1,
and Adam at 1e-3 in batches of 64, are ours. The filter alone is ``r_adapt`` with ``{alpha: 0, beta: 1}``; the anchor
alone is ``{cutoff: null}``.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.clip.defended import DefendedCLIP
from bench.defenses import r_adapt
from bench.defenses.adversarial import AttackOptions, adversarial_loss, attack_model
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tuning import tune

TUNES_ON: TunesOn = "labels"
BUILDS_ON = (r_adapt,)


class Options(r_adapt.Options, AttackOptions):
    """The paper's settings.

    Attributes:
        images: How many of the images it is handed are used, drawn at random.
        online: Attack the model as it is in each step, instead of the undefended one once.
    """

    alpha: float = 0.8
    beta: float = 0.2
    learning_rate: float = Field(default=1e-3, gt=0)
    epochs: int = Field(default=10, gt=0)
    batch_size: int = Field(default=64, gt=0)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_epochs: int = Field(default=0, ge=0)
    augment: bool = False
    eps: float = Field(default=4.0, ge=0)
    step: float | None = Field(default=1.0, ge=0)
    attack_steps: int = Field(default=10, ge=0)
    images: int = Field(default=2000, gt=0)
    online: bool = False


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune the ``anchor`` ``(1 + patches, width)``."""
    assert isinstance(data, Labelled)
    r_adapt.check(victim, options, "r_adapt_plus")
    anchor = nn.Parameter(r_adapt.white_anchor(victim.staged))
    model = r_adapt.adapted(victim, anchor, options)
    with torch.no_grad():
        texts = victim.texts(data.task)
    rows = torch.randperm(len(data.labels))[: options.images]
    chosen = Labelled(data.images[rows], data.labels[rows], data.task)
    if not options.online:
        batches = zip(chosen.images.split(options.batch_size), chosen.labels.split(options.batch_size), strict=True)
        attacked = [attack_model(victim, images, labels, texts, options) for images, labels in batches]
        chosen = chosen._replace(images=torch.cat(attacked))

    def loss(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        del epoch
        if options.online:
            return adversarial_loss(model, images, labels, texts, options)
        return functional.cross_entropy(model.logits(images, texts), labels)

    tune([anchor], chosen, loss, options, "r_adapt_plus")
    return {"anchor": anchor.detach()}


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with filter and tuned anchor, for any class list."""
    r_adapt.check(victim, options, "r_adapt_plus")
    return r_adapt.adapted(victim, tensors["anchor"], options)


def training_samples(data: Labelled, options: Options) -> int:
    """The images that are drawn."""
    return min(len(data.labels), options.images)
