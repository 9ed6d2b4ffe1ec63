"""Questions and answers as a model's inputs, and answering: greedy, in batches, with a cache of keys and values."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.errors import UserError
from bench.lvlm.model import Lvlm

# Longest answer in tokens; mini_llava's longest is its description of an image, with 13.
LONGEST = 16
_IGNORED = -100


class Encoded(NamedTuple):
    """A batch of prompts, padded on the left.

    Attributes:
        ids: ``(n, length)``.
        attended: 1 where there is a token, 0 where there is padding.
        labels: The ids of the answer, with its end, and -100 before it; None where no answer was given.
    """

    ids: Tensor
    attended: Tensor
    labels: Tensor | None

    def batch(self, rows: Sequence[int] | Tensor | slice) -> "Encoded":
        """Some of the prompts."""
        return Encoded(self.ids[rows], self.attended[rows], None if self.labels is None else self.labels[rows])


def encode(lvlm: Lvlm, questions: Sequence[str], answers: Sequence[str] | None = None) -> Encoded:
    """Prompts for ``questions``, each about one image, followed by ``answers`` if given, where the model computes.

    Raises:
        UserError: The model does not know a word.
    """
    places = lvlm.family.IMAGE * lvlm.image_tokens
    prompts = [lvlm.family.PROMPT.format(question).replace(lvlm.family.IMAGE, places) for question in questions]
    asked = [_ids(lvlm, prompt, start=True) for prompt in prompts]
    end = [lvlm.tokenizer.eos_token_id]
    told = [[*_ids(lvlm, answer), *end] for answer in answers] if answers is not None else [[] for _ in asked]
    length = max(len(first) + len(second) for first, second in zip(asked, told, strict=True))
    ids = torch.full((len(asked), length), lvlm.tokenizer.pad_token_id)
    attended, labels = torch.zeros_like(ids), torch.full_like(ids, _IGNORED)
    for row, (first, second) in enumerate(zip(asked, told, strict=True)):
        own = len(first) + len(second)
        ids[row, length - own :] = torch.tensor([*first, *second])
        attended[row, length - own :] = 1
        labels[row, length - len(second) :] = torch.tensor(second, dtype=torch.long)
    ids, attended, labels = (one.to(lvlm.device) for one in (ids, attended, labels))
    return Encoded(ids, attended, labels if answers is not None else None)


def inputs_of(lvlm: Lvlm, images: Tensor, encoded: Encoded) -> dict[str, Tensor]:
    """All that the model takes, for images ``(n, 3, h, w)`` in [0,1], one per prompt."""
    return {"input_ids": encoded.ids, "attention_mask": encoded.attended, **lvlm.inputs(images, encoded.ids)}


def answer_loss(lvlm: Lvlm, images: Tensor, encoded: Encoded) -> Tensor:
    """The language model's loss on the tokens of the answers, for images ``(n, 3, h, w)`` in [0,1]."""
    return lvlm.model(labels=encoded.labels, **inputs_of(lvlm, images, encoded)).loss


@torch.no_grad()
def answer(lvlm: Lvlm, images: Tensor, questions: Sequence[str], longest: int = LONGEST) -> list[str]:
    """The model's answers: greedy, at most ``longest`` tokens each.

    Args:
        lvlm: The model.
        images: ``(n, 3, h, w)`` in [0,1], one per question.
        questions: As they would be typed.
        longest: Most tokens of an answer.
    """
    encoded = encode(lvlm, questions)
    ids = generate(lvlm, images, encoded, longest)
    return [text.strip() for text in lvlm.tokenizer.batch_decode(ids, skip_special_tokens=True)]


@torch.no_grad()
def generate(lvlm: Lvlm, images: Tensor, encoded: Encoded, longest: int = LONGEST) -> Tensor:
    """Ids of the answers, ``(n, at most longest)``, with padding after their ends, on the processor."""
    ids = lvlm.model.generate(
        **inputs_of(lvlm, images, encoded),
        do_sample=False,
        max_new_tokens=longest,
        pad_token_id=lvlm.tokenizer.pad_token_id,
        eos_token_id=lvlm.tokenizer.eos_token_id,
    )
    return ids[:, encoded.ids.shape[1] :].cpu()


def _ids(lvlm: Lvlm, text: str, *, start: bool = False) -> list[int]:
    ids: list[int] = lvlm.tokenizer(text, add_special_tokens=start)["input_ids"]
    unknown = lvlm.tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        raise UserError(f"'{lvlm.architecture}' does not know all words of '{text.strip()}'")
    return ids
