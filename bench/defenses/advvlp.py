"""AdvVLP: independent deep prompts in both towers, tuned on adversarial images alone (a baseline in FAP's repository).

The prompts are those of ``advpt_vli``; here every image of a batch is attacked, and settings are FAP's.
"""

from pydantic import Field
from torch import Tensor

from bench.clip.defended import DefendedCLIP
from bench.defenses.adversarial import AttackOptions, adversarial_loss
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.prompting import Layout, PromptOptions, fit_prompts, load_prompts

TUNES_ON: TunesOn = "labels"


class Options(AttackOptions, PromptOptions):
    """FAP's settings for few-shot and base-to-new tuning (5 epochs for cross-dataset transfer)."""

    learning_rate: float = Field(default=0.0035, gt=0)
    epochs: int = Field(default=10, gt=0)
    batch_size: int = Field(default=4, gt=0)
    augment: bool = False


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune the prompts; the keys are those of ``Prompts``."""

    def objective(model: DefendedCLIP, images: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
        return adversarial_loss(model, images, labels, texts, options)

    return fit_prompts(victim, data, options, layout(options), objective, "advvlp")


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the prompts, for any class list."""
    return load_prompts(tensors, victim, layout(options), "advvlp")


def layout(options: Options) -> Layout:
    """Prompts in both towers."""
    return Layout("independent", options.length, options.depth)
