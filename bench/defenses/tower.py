"""Adversarial fine-tuning of the whole image tower: what TeCoA, FARE and TGA-ZSR share.

The text tower and the logit scale stay frozen; what is stored is the tuned tower, with keys ``tower.*``.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bench.clip.contrastive import cosine_with_warmup
from bench.clip.defended import DefendedCLIP
from bench.defenses.adversarial import BallOptions
from bench.defenses.contract import Labelled, Pairs, Tensors
from bench.defenses.prompting import refuse_edited
from bench.defenses.tuning import LoopOptions, tune

# From the model that is tuned, images, labels and class texts to a scalar.
Objective = Callable[[DefendedCLIP, Tensor, Tensor, Tensor], Tensor]
_TOWER = "tower."


class TowerOptions(BallOptions, LoopOptions):
    """The settings that R-Adapt's robust models were trained with: FARE's trainer at eps 4.

    Attributes:
        recipe: Whose settings are meant where none are given: ``r_adapt``'s, or those of the method's own ``authors``.
        warmup_steps: Steps of linear warm-up, before half a cosine to zero, step by step.
    """

    authors: ClassVar[Mapping[str, Any]] = {}

    recipe: Literal["r_adapt", "authors"] = "r_adapt"
    learning_rate: float = Field(default=1e-5, gt=0)
    epochs: int = Field(default=2, gt=0)
    batch_size: int = Field(default=128, gt=0)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_steps: int = Field(default=1400, ge=0)
    augment: bool = False
    eps: float = Field(default=4.0, ge=0)
    step: float | None = Field(default=1.0, ge=0)
    attack_steps: int = Field(default=10, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _settings_of_the_recipe(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        options = dict(cast("Mapping[str, Any]", given))
        return {**cls.authors, **options} if options.get("recipe") == "authors" else options

    def rate(self, step: int, per_epoch: int) -> float:
        """Changes with every step."""
        return self.learning_rate * cosine_with_warmup(step, self.epochs * per_epoch, self.warmup_steps)


def fine_tune(
    victim: DefendedCLIP, data: Labelled | Pairs | None, options: TowerOptions, objective: Objective, name: str
) -> Tensors:
    """Tune a copy of the victim's image tower on ``objective``; the class texts are the victim's."""
    assert isinstance(data, Labelled)
    refuse_edited(victim, name, text=False)
    model = _copy(victim)
    tower = model.staged.visual.requires_grad_(True)
    with torch.no_grad():
        texts = victim.texts(data.task)

    def loss(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        del epoch
        return objective(model, images, labels, texts)

    tune(list(tower.parameters()), data, loss, options, name)
    return tower_tensors(model)


def tower_tensors(model: DefendedCLIP) -> Tensors:
    """The image tower of ``model``, as it is stored."""
    return {_TOWER + name: tensor.detach().clone() for name, tensor in model.staged.visual.state_dict().items()}


def load_tower(tensors: Tensors, victim: DefendedCLIP, name: str) -> DefendedCLIP:
    """The victim with another image tower, for any class list."""
    refuse_edited(victim, name, text=False)
    model = _copy(victim)
    model.staged.visual.load_state_dict({key.removeprefix(_TOWER): tensor for key, tensor in tensors.items()})
    return model


def _copy(victim: DefendedCLIP) -> DefendedCLIP:
    clip = victim.staged.clip
    return victim.with_clip(replace(clip, model=copy.deepcopy(clip.model).requires_grad_(False)))
