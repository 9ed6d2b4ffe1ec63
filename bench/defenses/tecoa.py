"""TeCoA, text-guided contrastive adversarial training (Mao et al., ICLR 2023).

The image tower is fine-tuned with cross-entropy of attacked images against the frozen class texts. R-Adapt's TeCoA is
that of FARE's trainer, whose settings are the default; the authors' own are ``recipe: authors``. Their code gives a
learning rate of 1e-7, which does next to nothing; 1e-5 is what TGA-ZSR runs their code with. They attack at the images'
native size, before these are enlarged; here the ball is around the model's input. The class prompt of both is "This is
a photo of a {}". FARE's attack has a momentum of 0.9, which changes nothing: the velocity is cut down to signs in every
step.
"""

from typing import ClassVar

from torch import Tensor

from bench.clip.defended import DefendedCLIP
from bench.defenses.adversarial import adversarial_loss
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tower import TowerOptions, fine_tune, load_tower

TUNES_ON: TunesOn = "labels"


class Options(TowerOptions):
    """Those of R-Adapt's models, and the authors' own."""

    authors: ClassVar = {
        **{"learning_rate": 1e-5, "epochs": 10, "batch_size": 256, "optimizer": "sgd", "weight_decay": 0.0},
        **{"warmup_steps": 1000, "eps": 1.0, "step": 1.0, "attack_steps": 2},
    }


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune the image tower; keys are ``tower.*``."""

    def objective(model: DefendedCLIP, images: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
        return adversarial_loss(model, images, labels, texts, options)

    return fine_tune(victim, data, options, objective, "tecoa")


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the tuned image tower."""
    del options
    return load_tower(tensors, victim, "tecoa")
