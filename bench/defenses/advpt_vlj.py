"""AdvPT-VLJ: MaPLe's joint prompts under adversarial training (a baseline of NAP-Tuning, whose code calls it AdvMaPLe).

The image tower's prompts are linear projections of the text tower's, layer by layer; the FAP repository's AdvMaPLe
(``advmaple``) projects the other way. Half of each batch is attacked, as in ``advpt_v``.
"""

from pydantic import Field
from torch import Tensor

from bench.clip.defended import DefendedCLIP
from bench.defenses.adversarial import AttackOptions, adversarial_loss
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.prompting import Layout, PromptOptions, fit_prompts, load_prompts

TUNES_ON: TunesOn = "labels"


class Options(AttackOptions, PromptOptions):
    """The official code's settings."""

    learning_rate: float = Field(default=0.0035, gt=0)
    epochs: int = Field(default=100, gt=0)


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune the prompts; the keys are those of ``Prompts``."""

    def objective(model: DefendedCLIP, images: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
        return adversarial_loss(model, images, labels, texts, options, clean=len(images) // 2)

    return fit_prompts(victim, data, options, layout(options), objective, "advpt_vlj")


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the prompts, for any class list."""
    return load_prompts(tensors, victim, layout(options), "advpt_vlj")


def layout(options: Options) -> Layout:
    """MaPLe's prompts."""
    return Layout("text_to_image", options.length, options.depth)
