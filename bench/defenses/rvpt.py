"""RVPT, Repulsive Visual Prompt Tuning (Zhang et al., 2024), the seed version of the paper; there is no official code.

Deep visual prompts enter blocks D+1 to L of the frozen image tower. Cross-entropy on few-shot clean images keeps the
accuracy, while the class token of each prompted block is pushed away (cosine towards -1) from the same model's
un-prompted one, so that only what predicts the class survives (equations 2 to 6). Unstated settings follow CoOp:
prompts start from N(0, 0.02^2), momentum 0.9, weight decay 5e-4, one warm-up epoch, random crop and flip.

What the ablations vary is an option. Their L1 and L2 distances are between normalised tokens; only distances averaged
over the width explain how weakly they repel in the paper's table, so that is the default. The picture of the
permutations is not legible; the sets of layers in ``layer_sets`` are our reading of their names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from bench.clip.defended import DefendedCLIP
from bench.clip.staged import ImageEdits, StagedCLIP, Trace
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tuning import TuneOptions, tune
from bench.errors import UserError

TUNES_ON: TunesOn = "labels"
Distance = Literal["cosine", "l1", "l2"]


class Options(TuneOptions):
    """The paper's settings for ViT-B/32.

    Attributes:
        depth: D, number of blocks without prompts.
        end: The end of the tower that the prompted blocks reach: ``output`` (figure 3d) or ``input`` (figure 3e).
        length: b, prompts per block.
        prompt_std: Standard deviation of the prompts' first values.
        alpha: Weight of the repulsion; 0 is deep visual prompt tuning (VPT).
        margin: Least mean cosine that is still pushed down (equation 6); -1 is full repulsion, 1 is none.
        distance: What is maximised: ``cosine`` (its opposite is minimised), or ``l1`` or ``l2`` between normalised
            tokens.
        reduction: ``mean`` or ``sum`` of these over the width.
        permutation: Which L-D blocks are prompted and which L-D blocks are repelled (supplement, table 4): the same
            (``overlap``), the last ones but prompted before (``split``), in turn (``intertwine``), or with half of
            them shared (``mix``).
    """

    learning_rate: float = Field(default=0.002, gt=0)
    epochs: int = Field(default=50, gt=0)
    depth: int = Field(default=3, ge=0)
    end: Literal["output", "input"] = "output"
    length: int = Field(default=50, ge=0)
    prompt_std: float = Field(default=0.02, gt=0)
    alpha: float = Field(default=2.0, ge=0)
    margin: float = Field(default=-1.0, ge=-1, le=1)
    distance: Distance = "cosine"
    reduction: Literal["mean", "sum"] = "mean"
    permutation: Literal["overlap", "split", "intertwine", "mix"] = "overlap"

    @model_validator(mode="after")
    def _margin_is_a_cosine(self) -> "Options":
        if self.distance != "cosine" and self.margin != -1:
            raise ValueError(f"margin is one of the cosine; leave it out with distance '{self.distance}'")
        return self


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune one set of prompts ``(b, width)`` for each prompted block; keys are ``prompt.<layer>``."""
    assert isinstance(data, Labelled)
    _check(victim)
    staged = victim.staged
    prompted, repelled = layer_sets(len(staged.image_blocks), options)
    first = prompted[0]
    prompts = {
        layer: nn.Parameter(options.prompt_std * torch.randn(options.length, staged.image_width)) for layer in prompted
    }
    edits = _edits(prompts, staged)
    with torch.no_grad():
        texts = victim.texts(data.task)

    def loss(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        del epoch
        entry, reference = unprompted(staged, images, first)
        trace = Trace()
        embedded = staged.image_from(entry, first, edits, trace)
        scale = staged.clip.model.logit_scale.exp()
        fitted = functional.cross_entropy(scale * functional.normalize(embedded, dim=-1) @ texts.T, labels)
        tokens = [trace.class_tokens[layer - first] for layer in repelled]
        return fitted + options.alpha * repulsion(tokens, [reference[layer - 1] for layer in repelled], options)

    tune(list(prompts.values()), data, loss, options, "rvpt")
    return {f"prompt.{layer}": prompt.detach() for layer, prompt in prompts.items()}


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the prompts in its image tower."""
    _check(victim)
    layers, _ = layer_sets(len(victim.staged.image_blocks), options)
    return replace(victim, image_edits=_edits({layer: tensors[f"prompt.{layer}"] for layer in layers}, victim.staged))


def layer_sets(blocks: int, options: Options) -> tuple[list[int], list[int]]:
    """Layers that are prompted and layers that are repelled, from 1, as many of each; none is repelled before the first
    prompt.

    Args:
        blocks: Number of blocks in the tower.
        options: Their depth, end and permutation.

    Raises:
        UserError: The tower has too few blocks.
    """
    count = blocks - options.depth
    if count < 1:
        raise UserError(f"rvpt: depth {options.depth} leaves no block to prompt in a tower of {blocks} blocks")
    last = list(range(blocks - count + 1, blocks + 1))
    if options.permutation == "overlap":
        layers = last if options.end == "output" else list(range(1, count + 1))
        return layers, layers
    if 2 * count > blocks or options.end == "input":
        raise UserError(
            f"rvpt: permutation '{options.permutation}' needs end 'output' and a depth of at least half the tower's "
            f"{blocks} blocks, not end '{options.end}' and depth {options.depth}"
        )
    start = blocks - 2 * count + 1
    match options.permutation:
        case "split":
            return list(range(start, start + count)), last
        case "intertwine":
            return list(range(start, blocks, 2)), list(range(start + 1, blocks + 1, 2))
        case "mix":
            return list(range(start + count // 2, start + count // 2 + count)), last


@torch.no_grad()
def unprompted(staged: StagedCLIP, images: Tensor, first: int) -> tuple[Tensor, list[Tensor]]:
    """One pass of the frozen tower without prompts.

    Args:
        staged: The tower.
        images: ``(n, 3, h, w)`` in [0,1].
        first: First prompted layer; nothing before it is tuned, so the prompted pass starts there.

    Returns:
        The tokens that enter layer ``first``, and the class tokens that all blocks put out.
    """
    entry = staged.image_tokens(images)
    trace = Trace(every_token=True)
    staged.image_from(entry, 1, ImageEdits(), trace)
    return trace.tokens[first - 2] if first > 1 else entry, trace.class_tokens


def repulsion(prompted: Sequence[Tensor], reference: Sequence[Tensor], options: Options) -> Tensor:
    """What is added to the loss, before its weight; the smaller, the farther apart the class tokens are.

    Cosine: the mean over images of the mean over layers (equation 3), not pushed below the margin (equation 6). Other
    distances: minus their mean over images and layers.

    Args:
        prompted: Class tokens ``(n, width)`` of the repelled layers.
        reference: Those of the same model without prompts.
        options: Distance, reduction and margin.
    """
    pairs = list(zip(prompted, reference, strict=True))
    if options.distance == "cosine":
        cosines = [functional.cosine_similarity(a, b, dim=-1) for a, b in pairs]
        return torch.stack(cosines).mean(dim=0).clamp(min=options.margin).mean()
    gaps = torch.stack([functional.normalize(a, dim=-1) - functional.normalize(b, dim=-1) for a, b in pairs])
    sizes = gaps.abs() if options.distance == "l1" else gaps.square()
    return -(sizes.mean(dim=-1) if options.reduction == "mean" else sizes.sum(dim=-1)).mean()


def _edits(prompts: Mapping[int, Tensor], staged: StagedCLIP) -> ImageEdits:
    """Prompts for their layers; what they put out is dropped where no fresh ones follow."""
    none = torch.empty(0, staged.image_width)
    after = range(min(prompts) + 1, len(staged.image_blocks) + 1)
    dropped = {layer: none for layer in after if layer - 1 in prompts and layer not in prompts}
    return ImageEdits(prompts={**prompts, **dropped})


def _check(victim: DefendedCLIP) -> None:
    if victim.image_edits != ImageEdits():
        raise UserError("rvpt needs an image tower that no other defense has put prompts into")
    if victim.head is not None:
        raise UserError("rvpt tunes against class texts and cannot follow a linear head; put it before linear_probe")
