"""FARE (Schlarmann et al., ICML 2024): the image tower is fine-tuned to embed attacked images like clean ones.

No text and no label: the squared distance between the embedding of an attacked image and the original tower's of the
clean image, neither of them normalised, is raised by the attack and lowered by the tuning. R-Adapt follows the authors'
settings. The momentum of their attack changes nothing: the velocity is cut down to signs in every step.
"""

import torch
from torch import Tensor

from bench.clip.defended import DefendedCLIP
from bench.defenses.adversarial import perturb
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tower import TowerOptions, fine_tune, load_tower

TUNES_ON: TunesOn = "labels"


class Options(TowerOptions):
    """The authors' settings at eps 4; they publish weights at eps 2 too."""


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune the image tower; keys are ``tower.*``."""

    def objective(model: DefendedCLIP, images: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
        del labels, texts
        with torch.no_grad():
            clean = victim.image(images)
        attacked = perturb(lambda candidates: drift(model.image(candidates), clean).sum(), images, options)
        return drift(model.image(attacked), clean).mean()

    return fine_tune(victim, data, options, objective, "fare")


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the tuned image tower."""
    del options
    return load_tower(tensors, victim, "fare")


def drift(moved: Tensor, clean: Tensor) -> Tensor:
    """Squared distances ``(n,)`` between embeddings ``(n, d)``."""
    return (moved - clean).square().sum(dim=-1)
