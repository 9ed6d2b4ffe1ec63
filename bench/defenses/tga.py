"""TGA-ZSR, text-guided attention (Yu et al., NeurIPS 2024): TeCoA that keeps to where the original model looks.

To the cross-entropy on attacked images come two distances to the original model's attention map of the clean image:
that of the tuned model's map of the attacked image, and that of its map of the clean one. The map is how much each
patch looks like the true class's text, brought to [0,1] over the patches and enlarged to the size of the image. The
official code normalises patch features over the tokens instead of the channels; that is the default. R-Adapt raised
eps alone, so its attack has the authors' two steps of 1.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.clip.classifier import scaled_cosine
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import StagedCLIP, Trace
from bench.defenses.adversarial import attack_model
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tower import TowerOptions, fine_tune, load_tower

TUNES_ON: TunesOn = "labels"


class Options(TowerOptions):
    """The authors' settings with R-Adapt's eps and two epochs; all of the authors' own are ``recipe: authors``.

    Attributes:
        alpha: Weight of the distance between the maps of attacked images and the original ones.
        beta: Weight of the distance between the maps of clean images and the original ones.
        normalised_over: Patch features are divided by their norm over all ``tokens`` (the official code), or over their
            ``channels`` (what the text suggests).
    """

    authors: ClassVar = {"epochs": 10, "eps": 1.0}

    learning_rate: float = Field(default=1e-4, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=1000, ge=0)
    attack_steps: int = Field(default=2, ge=0)
    alpha: float = Field(default=0.08, ge=0)
    beta: float = Field(default=0.05, ge=0)
    normalised_over: Literal["tokens", "channels"] = "tokens"


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune the image tower; keys are ``tower.*``."""

    def objective(model: DefendedCLIP, images: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
        attacked = attack_model(model, images, labels, texts, options)
        with torch.no_grad():
            _, original = _embed(victim, images, texts[labels], options)
        embedded, maps = _embed(model, torch.cat([attacked, images]), texts[labels].repeat(2, 1), options)
        logits = scaled_cosine(model.staged, embedded[: len(images)], texts)
        return functional.cross_entropy(logits, labels) + penalty(maps, original, options)

    return fine_tune(victim, data, options, objective, "tga")


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the tuned image tower."""
    del options
    return load_tower(tensors, victim, "tga")


def penalty(maps: Tensor, original: Tensor, options: Options) -> Tensor:
    """Weighted mean distances of ``maps`` ``(2 n, pixels)``, attacked images first, to the ``original`` ones."""
    attacked, clean = ((half - original).norm(dim=-1).mean() for half in maps.chunk(2))
    return options.alpha * attacked + options.beta * clean


def patch_maps(staged: StagedCLIP, tokens: Tensor, texts: Tensor, options: Options) -> Tensor:
    """Which patches of each image look like its text, ``(n, patches)`` from 0 to 1; all 0 where they do not differ.

    Args:
        staged: The model.
        tokens: What its last block puts out, ``(n, 1 + patches, width)``.
        texts: One text embedding for each image, ``(n, d)``.
        options: How features are normalised.
    """
    features = staged.visual.ln_post(tokens) @ staged.visual.proj
    features = functional.normalize(features, dim=1 if options.normalised_over == "tokens" else -1)
    likeness = (features[:, 1:] @ texts.unsqueeze(-1)).squeeze(-1)
    low, high = likeness.amin(dim=1, keepdim=True), likeness.amax(dim=1, keepdim=True)
    return (likeness - low) / (high - low).clamp(min=1e-12)


def _embed(model: DefendedCLIP, images: Tensor, texts: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Image embeddings ``(n, d)`` and attention maps ``(n, pixels)``."""
    staged, trace = model.staged, Trace(every_token=True)
    embedded = model.image(images, trace)
    maps = patch_maps(staged, trace.tokens[-1], texts, options).unflatten(1, (1, *staged.visual.grid_size))
    return embedded, functional.interpolate(maps, images.shape[-2:], mode="bilinear").flatten(1)
