"""R-Adapt+ in the image tower of a large vision-language model: the anchor is tuned on a few attacked images.

The appendix on Qwen3-VL: 2,000 attacked images are made first, on the tower of the undefended model; the anchor starts
at the tower's answer to a white image and is tuned on them behind the filter, with all weights frozen. It states
neither the loss nor the attack, and Qwen3-VL has no text tower for the cross-entropy that CLIP's anchor is tuned with.
Here both families have the same loss: the squared distance, summed over the width and averaged over tokens and images,
between what the decoder is told about the attacked image and what the undefended tower tells it about the clean one.
The attack raises that distance, and the anchor lowers it. ``online: true`` attacks through filter and anchor in every
step.

The paper tunes at eps 4, 8 and 16. Steps of a quarter of eps, ten of them, and Adam at 1e-3 in batches of 64 are ours.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.clip.defended import Task
from bench.defenses import r_adapt_lvlm
from bench.defenses.adversarial import AttackOptions, BallOptions, perturb
from bench.defenses.contract import Labelled, Tensors, TunesOn
from bench.defenses.tuning import tune
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.questions import Questions
from bench.lvlm.tower import white_anchor

TUNES_ON: TunesOn = "images"
DEFENDS = "lvlm"
BUILDS_ON = (r_adapt_lvlm,)


class Options(r_adapt_lvlm.Options, AttackOptions):
    """The paper's settings.

    Attributes:
        samples: How many of the images it is handed are used, drawn at random.
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
    attack_steps: int = Field(default=10, ge=0)
    samples: int = Field(default=2000, gt=0)
    online: bool = False

    @property
    def step_size(self) -> float:
        """A quarter of the radius if not given, in /255."""
        return self.eps / 4 if self.step is None else self.step


def fit(victim: DefendedLvlm, data: Questions | None, options: Options) -> Tensors:
    """Tune the ``anchor`` ``(tokens, width)``; of the questions, only the images are looked at."""
    assert data is not None
    r_adapt_lvlm.check(victim, options, "r_adapt_plus_lvlm")
    anchor = nn.Parameter(white_anchor(victim.lvlm))
    model = r_adapt_lvlm.adapted(victim, anchor, options)
    rows = torch.randperm(len(data.images))[: options.samples]
    clean = data.images[rows].float() / 255
    attacked = clean
    if not options.online:
        attacked = torch.cat([away(victim, victim, part, options) for part in clean.split(options.batch_size)])

    def loss(images: Tensor, places: Tensor, epoch: int) -> Tensor:
        del epoch
        seen = away(model, victim, images, options) if options.online else images
        with torch.no_grad():
            right = victim.told(clean[places.cpu()])
        return distance(model.told(seen), right).mean()

    tune([anchor], Labelled(attacked, torch.arange(len(clean)), Task((), "")), loss, options, "r_adapt_plus_lvlm")
    return {"anchor": anchor.detach()}


def away(model: DefendedLvlm, undefended: DefendedLvlm, images: Tensor, options: BallOptions) -> Tensor:
    """Images of which ``model``'s tower tells what is far from the undefended tower's word on clean ones."""
    with torch.no_grad():
        right = undefended.told(images)
    return perturb(lambda candidates: distance(model.told(candidates), right).sum(), images, options)


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Squared distance of what is told about each image, ``(n,)``: summed over the width, averaged over tokens."""
    return (first - second).square().sum(dim=-1).mean(dim=-1)


def load(tensors: Tensors, victim: DefendedLvlm, options: Options) -> DefendedLvlm:
    """The victim with filter and tuned anchor."""
    r_adapt_lvlm.check(victim, options, "r_adapt_plus_lvlm")
    return r_adapt_lvlm.adapted(victim, tensors["anchor"], options)
