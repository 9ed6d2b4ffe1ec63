"""FAP, Few-shot Adversarial Prompt learning (Zhou et al., NeurIPS 2024).

Deep prompts of both towers are joined by linear projections: in layer 1 from text to image, deeper from image to text.
Cross-entropy on clean images is joined by the KL divergence of the attacked from the clean prediction, weighted for
each image by the cosine of its clean and attacked embeddings plus one; no part is detached. The training attack raises
the same divergence. The weight is that of the official scripts (1.5; the configuration file has 1.0). The code leaves
the dataset's template, braces and all, before the class name ("a photo of a {}. cat."); here that is an option.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.clip.classifier import scaled_cosine
from bench.clip.defended import DefendedCLIP
from bench.defenses.adversarial import AttackOptions, Raised, attack_model
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.prompting import Layout, PromptOptions, fit_prompts, load_prompts, photo

TUNES_ON: TunesOn = "labels"


class Options(AttackOptions, PromptOptions):
    """The official scripts' settings for few-shot and base-to-new tuning (5 epochs for cross-dataset transfer).

    Attributes:
        divergence: Lambda, weight of the divergence term.
        attack_loss: What the training attack raises: ``kl``, or ``ce`` as the test-time attack does.
        literal_template: Put the context into the raw template followed by the class, as the official code does.
    """

    learning_rate: float = Field(default=0.0035, gt=0)
    epochs: int = Field(default=10, gt=0)
    batch_size: int = Field(default=4, gt=0)
    augment: bool = False
    divergence: float = Field(default=1.5, ge=0)
    attack_loss: Raised = "kl"
    literal_template: bool = False


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune prompts and projections; the keys are those of ``Prompts``."""

    def objective(model: DefendedCLIP, images: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
        attacked = attack_model(model, images, labels, texts, options, options.attack_loss)
        embedded = model.image(torch.cat([images, attacked]))
        logits = scaled_cosine(model.staged, embedded, texts)
        natural = functional.cross_entropy(logits[: len(images)], labels)
        return natural + options.divergence * gated_divergence(embedded, logits)

    return fit_prompts(victim, data, options, layout(options), objective, "fap")


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the prompts, for any class list."""
    return load_prompts(tensors, victim, layout(options), "fap")


def gated_divergence(embedded: Tensor, logits: Tensor) -> Tensor:
    """Mean of KL(clean || attacked) times one plus the cosine of the embeddings.

    Args:
        embedded: Image embeddings ``(2 n, d)``, clean ones first.
        logits: Their logits ``(2 n, classes)``.
    """
    clean, attacked = functional.log_softmax(logits, dim=-1).chunk(2)
    divergence = functional.kl_div(attacked, clean, reduction="none", log_target=True).sum(dim=-1)
    gate = functional.cosine_similarity(*embedded.chunk(2), dim=-1) + 1
    return (divergence * gate).mean()


def literal(template: str) -> str:
    """The sentence of the official code: the template with its braces, then the class."""
    return template.replace("{}", "{{}}") + " {}."


def layout(options: Options) -> Layout:
    """FAP's prompts."""
    return Layout("fap", options.length, options.depth, literal if options.literal_template else photo)
