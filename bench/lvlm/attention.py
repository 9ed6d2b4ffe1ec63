"""A decoder's attention, open to be watched and changed, through transformers' own attention interface.

While it is open, every layer hands its scores to an edit, which returns those that softmax is taken of. With scores
returned as they are, results are those of transformers' ``eager`` attention bit for bit.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.lvlm.model import Lvlm

# From a layer's number, counted from 0, and its scores ``(n, heads, queries, keys)``, masked where a query may not
# look, to other scores.
Edit = Callable[[int, Tensor], Tensor]
_OPEN = "bench_open"


def open_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """Attention as transformers calls it; the module's ``edit`` changes the scores."""
    del others
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    edit: Edit | None = getattr(module, "edit", None)
    if edit is not None:
        scores = edit(module.layer_idx, scores)
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


@contextmanager
def opened(lvlm: Lvlm, edit: Edit) -> Generator[None]:
    """Hand the scores of all the decoder's layers to ``edit``; afterwards the model is as it was.

    Raises:
        UserError: The model's attention does not go through transformers' attention interface.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(_OPEN, open_attention)
    AttentionMaskInterface.register(_OPEN, eager_mask)
    decoder = lvlm.family.decoder(lvlm.model)
    layers = getattr(decoder, "layers", None)
    if layers is None or not all(hasattr(getattr(layer, "self_attn", None), "layer_idx") for layer in layers):
        raise _closed(lvlm)
    before = decoder.config._attn_implementation
    try:
        decoder.set_attn_implementation(_OPEN)
    except ValueError as error:
        raise _closed(lvlm) from error
    try:
        for layer in layers:
            layer.self_attn.edit = edit
        yield
    finally:
        for layer in layers:
            del layer.self_attn.edit
        decoder.set_attn_implementation(before)


def _closed(lvlm: Lvlm) -> UserError:
    return UserError(
        f"'{lvlm.architecture}': the decoder's attention is not accessible through transformers' attention interface, "
        "which this defense needs; use a model whose layers have it"
    )
