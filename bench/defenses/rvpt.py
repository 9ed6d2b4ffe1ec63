"""RVPT, Repulsive Visual Prompt Tuning (Zhang et al., 2024), the seed version of the paper; there is no official code.

Deep visual prompts enter blocks D+1 to L of the frozen image tower. Cross-entropy on few-shot clean images keeps the
accuracy, while the class token of each prompted block is pushed away (cosine towards -1) from the same model's
un-prompted one, so that only what predicts the class survives (equations 2 to 6). Unstated settings follow CoOp:
prompts start from N(0, 0.02^2), momentum 0.9, weight decay 5e-4, one warm-up epoch, random crop and flip.
"""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.clip.defended import DefendedCLIP
from bench.clip.staged import ImageEdits, StagedCLIP, Trace
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tuning import TuneOptions, tune
from bench.errors import UserError

TUNES_ON: TunesOn = "labels"


class Options(TuneOptions):
    """The paper's settings for ViT-B/32.

    Attributes:
        depth: D, number of blocks without prompts.
        length: b, prompts per block.
        alpha: Weight of the repulsion; 0 is deep visual prompt tuning (VPT).
        margin: Least mean cosine that is still pushed down (equation 6); -1 is full repulsion, 1 is none.
    """

    learning_rate: float = Field(default=0.002, gt=0)
    epochs: int = Field(default=50, gt=0)
    depth: int = Field(default=3, ge=0)
    length: int = Field(default=50, ge=0)
    alpha: float = Field(default=2.0, ge=0)
    margin: float = Field(default=-1.0, ge=-1, le=1)


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune one set of prompts ``(b, width)`` for each block after the first D; keys are ``prompt.<layer>``."""
    assert isinstance(data, Labelled)
    _check(victim)
    staged = victim.staged
    layers = _layers(staged, options)
    prompts = {layer: nn.Parameter(0.02 * torch.randn(options.length, staged.image_width)) for layer in layers}
    with torch.no_grad():
        texts = victim.texts(data.task)

    def loss(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        del epoch
        entry, reference = unprompted(staged, images, options.depth)
        trace = Trace()
        embedded = staged.image_from(entry, options.depth + 1, ImageEdits(prompts=prompts), trace)
        scale = staged.clip.model.logit_scale.exp()
        fitted = functional.cross_entropy(scale * functional.normalize(embedded, dim=-1) @ texts.T, labels)
        return fitted + options.alpha * repulsion(trace.class_tokens, reference, options.margin)

    tune(list(prompts.values()), data, loss, options, "rvpt")
    return {f"prompt.{layer}": prompt.detach() for layer, prompt in prompts.items()}


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the prompts in its image tower."""
    _check(victim)
    prompts = {layer: tensors[f"prompt.{layer}"] for layer in _layers(victim.staged, options)}
    return replace(victim, image_edits=ImageEdits(prompts=prompts))


@torch.no_grad()
def unprompted(staged: StagedCLIP, images: Tensor, depth: int) -> tuple[Tensor, list[Tensor]]:
    """One pass of the frozen tower without prompts.

    Returns:
        The tokens that enter block ``depth + 1`` (nothing before it is tuned, so the prompted pass starts there), and
        the class tokens that the blocks from there on put out.
    """
    entry = staged.image_tokens(images)
    trace = Trace(every_token=True)
    staged.image_from(entry, 1, ImageEdits(), trace)
    return trace.tokens[depth - 1] if depth else entry, trace.class_tokens[depth:]


def repulsion(prompted: list[Tensor], reference: list[Tensor], margin: float) -> Tensor:
    """Mean over images of the mean cosine over layers (equation 3), not pushed below ``margin`` (equation 6)."""
    cosines = [functional.cosine_similarity(a, b, dim=-1) for a, b in zip(prompted, reference, strict=True)]
    return torch.stack(cosines).mean(dim=0).clamp(min=margin).mean()


def _check(victim: DefendedCLIP) -> None:
    if victim.image_edits != ImageEdits():
        raise UserError("rvpt needs an image tower that no other defense has put prompts into")
    if victim.head is not None:
        raise UserError("rvpt tunes against class texts and cannot follow a linear head; put it before linear_probe")


def _layers(staged: StagedCLIP, options: Options) -> range:
    last = len(staged.image_blocks)
    if options.depth >= last:
        raise UserError(f"rvpt: depth {options.depth} leaves no block to prompt in a tower of {last} blocks")
    return range(options.depth + 1, last + 1)
