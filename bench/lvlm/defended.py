"""A vision-language model with whatever a defense adds to it: other pixels, a guard over the decoder's attention, or
another first attention in the image tower.

What purifies an image may ask the model about it first, and so knows the question too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bench.lvlm.answering import LONGEST, Encoded, encode, generate
from bench.lvlm.attention import opened
from bench.lvlm.model import Lvlm
from bench.lvlm.tower import Edit, first_attention, told


class Answers(NamedTuple):
    """What a model said, and what a guard thought of each question.

    Attributes:
        texts: One per question.
        distances: How unlike clean questions each is, ``(n,)``; empty without a guard.
        alarms: Which of them a guard took for attacks, ``(n,)``; empty without a guard.
    """

    texts: list[str]
    distances: Tensor
    alarms: Tensor


class Watch(Protocol):
    """Follows one batch from the prompt to the last token of its answers; see ``bench.lvlm.attention.Edit``."""

    distances: Tensor
    alarms: Tensor

    def __call__(self, layer: int, scores: Tensor) -> Tensor:
        """The scores that softmax is taken of."""
        ...


@dataclass(frozen=True)
class DefendedLvlm:
    """What defenses of this track take and give, so that they compose.

    Attributes:
        lvlm: The model underneath.
        pixels: What is done to images ``(n, 3, h, w)`` in [0,1] before the model sees them.
        guard: Makes a watch over the attention for each batch of prompts.
        attention: From what the image tower's first attention adds to its tokens, ``(n, tokens, width)``, to what is
            added instead.
        purify: What is done to images before all else, given the question about each.
    """

    lvlm: Lvlm
    pixels: Callable[[Tensor], Tensor] | None = None
    guard: Callable[[Encoded], Watch] | None = None
    attention: Edit | None = None
    purify: Callable[[Tensor, Sequence[str]], Tensor] | None = None

    def shown(self, images: Tensor, questions: Sequence[str]) -> Tensor:
        """What the model sees of ``images``, when it is asked ``questions``."""
        purified = images if self.purify is None else self.purify(images, questions)
        return purified if self.pixels is None else self.pixels(purified)

    @torch.no_grad()
    def answer(self, images: Tensor, questions: Sequence[str], longest: int = LONGEST) -> Answers:
        """The defended model's answers, greedy, for images in [0,1], one per question."""
        encoded = encode(self.lvlm, questions)
        seen = self.shown(images, questions)
        distances, alarms = torch.empty(0), torch.empty(0, dtype=torch.bool)
        with first_attention(self.lvlm, self.attention):
            if self.guard is None:
                ids = generate(self.lvlm, seen, encoded, longest)
            else:
                watch = self.guard(encoded)
                with opened(self.lvlm, watch):
                    ids = generate(self.lvlm, seen, encoded, longest)
                distances, alarms = watch.distances.cpu(), watch.alarms.cpu()
        texts = [text.strip() for text in self.lvlm.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return Answers(texts, distances, alarms)

    def told(self, images: Tensor) -> Tensor:
        """What the image tower tells the decoder about images in [0,1], ``(n, tokens, width)``, with gradients."""
        with first_attention(self.lvlm, self.attention):
            return told(self.lvlm, images if self.pixels is None else self.pixels(images))
