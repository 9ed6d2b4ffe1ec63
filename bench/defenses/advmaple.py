"""AdvMaPLe: jointly learned deep prompts, tuned on adversarial images alone (a baseline in FAP's repository).

The prompts are FAP's: below layer 1 they are projected from image to text, against the direction of MaPLe itself
(``text_to_image``, an option here and the layout of ``advpt_vlj``).
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from bench.clip.defended import DefendedCLIP
from bench.defenses.adversarial import AttackOptions, adversarial_loss
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.prompting import Layout, PromptOptions, fit_prompts, load_prompts

TUNES_ON: TunesOn = "labels"


class Options(AttackOptions, PromptOptions):
    """FAP's settings for few-shot and base-to-new tuning (5 epochs for cross-dataset transfer).

    Attributes:
        coupling: How the towers' prompts depend on each other; see ``Layout``.
    """

    learning_rate: float = Field(default=0.0035, gt=0)
    epochs: int = Field(default=10, gt=0)
    batch_size: int = Field(default=4, gt=0)
    augment: bool = False
    coupling: Literal["fap", "image_to_text", "text_to_image"] = "fap"


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune prompts and projections; the keys are those of ``Prompts``."""

    def objective(model: DefendedCLIP, images: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
        return adversarial_loss(model, images, labels, texts, options)

    return fit_prompts(victim, data, options, layout(options), objective, "advmaple")


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the prompts, for any class list."""
    return load_prompts(tensors, victim, layout(options), "advmaple")


def layout(options: Options) -> Layout:
    """Joint prompts."""
    return Layout(options.coupling, options.length, options.depth)
