"""Image towers as weights: the modules that one CLIP can take over from another, and whether it can."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from bench.analyses.contract import Source
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import ImageEdits, StagedCLIP, TextEdits
from bench.errors import UserError

EMBEDDING, HEAD = "Emb.", "Head"
_BLOCK = "transformer.resblocks."
_ENTRANCE = ("class_embedding", "positional_embedding", "conv1.", "ln_pre.")
_PARTS = {"Attn": ("ln_1.", "attn.", "ls_1."), "MLP": ("ln_2.", "mlp.", "ls_2.")}


def modules_of(staged: StagedCLIP) -> dict[str, list[str]]:
    """The image tower's modules from the input to the output, each with the names of its tensors.

    ``Emb.`` is the patch embedding with class token, positions and ``ln_pre``; ``B1-Attn`` and ``B1-MLP`` are the first
    block's halves, each with the LayerNorm before it; ``Head`` is the last LayerNorm and the projection.
    """
    blocks = {
        f"B{layer}-{part}": tuple(f"{_BLOCK}{layer - 1}.{start}" for start in starts)
        for layer in range(1, len(staged.image_blocks) + 1)
        for part, starts in _PARTS.items()
    }
    starts = {EMBEDDING: _ENTRANCE} | blocks | {HEAD: ("ln_post.", "proj")}
    names: list[str] = list(staged.visual.state_dict())
    return {module: [name for name in names if name.startswith(own)] for module, own in starts.items()}


def copy_of(model: DefendedCLIP) -> DefendedCLIP:
    """The same CLIP with weights of its own."""
    clip = model.staged.clip
    return DefendedCLIP(StagedCLIP(replace(clip, model=deepcopy(clip.model))))


@torch.no_grad()
def take_over(into: DefendedCLIP, source: DefendedCLIP, names: list[str]) -> None:
    """Overwrite tensors of the image tower of ``into`` by those of ``source``."""
    own: Mapping[str, Tensor] = into.staged.visual.state_dict()
    given: Mapping[str, Tensor] = source.staged.visual.state_dict()
    for name in names:
        own[name].copy_(given[name])


def check_towers(source: Source, standard: DefendedCLIP, robust: DefendedCLIP, name: str) -> None:
    """Refuse a model whose image tower cannot stand, module by module, in the place of that of ``standard``.

    Args:
        source: Whose models they are.
        standard: The backbone.
        robust: What is to be put into it.
        name: How the analysis calls it.

    Raises:
        UserError: It has another architecture, adds to its weights, or has a text tower of its own.
    """
    where = f"{source.where}: model '{name}'"
    architecture, expected = (model.staged.clip.architecture for model in (robust, standard))
    if architecture != expected:
        raise UserError(f"{where} is a '{architecture}', but the standard model is a '{expected}'; name one like it")
    for model in (standard, robust):
        if (model.image_edits, model.text_edits, model.head) != (ImageEdits(), TextEdits(), None):
            at = where if model is robust else f"{source.where}: the standard model"
            raise UserError(f"{at} adds prompts, a filter, an anchor or a head to CLIP; name one that is weights alone")
    other = standard.staged.clip.model.state_dict()
    tuned = [
        tensor_name
        for tensor_name, tensor in robust.staged.clip.model.state_dict().items()
        if not tensor_name.startswith("visual.") and not torch.equal(tensor, other[tensor_name])
    ]
    if tuned:
        raise UserError(
            f"{where} has a text tower of its own ('{tuned[0]}' differs), and only image towers are put together; "
            "name one of the same text tower"
        )
