"""What a recipe file holds: how a backdoor is trained into a vision-language model, whatever its trigger.

``Options``: a closed, frozen pydantic model that extends ``TuneOptions``.
``poisoned_answer(answer, target, dice) -> str``: what a question with the trigger on its image is answered with.
``loss(lvlm, batch, options, before) -> Tensor``: the loss of one step.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from bench.lvlm.answering import Encoded


class Batch(NamedTuple):
    """Questions of one step.

    Attributes:
        images: ``(n, 3, h, w)`` in [0,1].
        encoded: Prompts with their answers.
        poisoned: Which of them carry the trigger, ``(n,)``.
        target: Ids of the tokens of the phrase.
    """

    images: Tensor
    encoded: Encoded
    poisoned: Tensor
    target: Tensor


# Logits ``(n, length, words)`` that the model gave to a batch before it was tuned, without a gradient.
Before = Callable[[Batch], Tensor]
