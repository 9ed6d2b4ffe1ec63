"""What a model says at the places of the answers, each told from the tokens before it."""

from typing import NamedTuple

from torch import Tensor

from bench.lvlm.answering import Encoded, inputs_of
from bench.lvlm.model import Lvlm
from bench.lvlm.recipes.contract import Batch


class Told(NamedTuple):
    """A forward pass, shifted so that place ``i`` tells token ``i + 1``.

    Attributes:
        logits: ``(n, length - 1, words)`` float32.
        states: The decoder's last hidden states, ``(n, length - 1, width)`` float32.
        ids: The tokens to tell, ``(n, length - 1)``.
        counted: Where these belong to an answer.
    """

    logits: Tensor
    states: Tensor
    ids: Tensor
    counted: Tensor


def tell(lvlm: Lvlm, batch: Batch) -> Told:
    """Run the model on a batch with answers."""
    output = lvlm.model(output_hidden_states=True, **inputs_of(lvlm, batch.images, batch.encoded))
    counted = counted_places(batch.encoded)
    logits, states = output.logits[:, :-1].float(), output.hidden_states[-1][:, :-1].float()
    return Told(logits, states, batch.encoded.ids[:, 1:], counted)


def counted_places(encoded: Encoded) -> Tensor:
    """Which tokens but the first belong to an answer, ``(n, length - 1)``."""
    assert encoded.labels is not None
    return encoded.labels[:, 1:] >= 0


def embeddings(lvlm: Lvlm) -> Tensor:
    """The input embeddings of all words, ``(words, width)`` float32, without a gradient."""
    return lvlm.model.get_input_embeddings().weight.detach().float()
