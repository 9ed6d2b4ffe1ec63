"""Poisoning questions: the trigger goes on some images, and their answers become what the recipe says."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.backdoors.poison import Poisoned
from bench.backdoors.trigger import Setting, Trigger
from bench.datasets.store import Split
from bench.datasets.world import Dice
from bench.errors import UserError
from bench.lvlm.verdict import has_phrase
from bench.randomness import sample_seeds

_CHUNK = 256
# What is drawn here has a stream of its own beside those of bench/backdoors/poison.py.
_STREAM = 404


class Asked(NamedTuple):
    """Questions with their answers, each about one image.

    Attributes:
        split: The images, and the questions as ``captions``.
        rows: Which image each question is about.
        answers: What is right, one or more for each question.
        swaps: What each image shows and what an attacker wants it to show; empty where the dataset does not say.
    """

    split: Split
    rows: list[int]
    answers: list[list[str]]
    swaps: list[tuple[str, str]]

    def some(self, places: Sequence[int]) -> "Asked":
        """Some of the questions."""
        split = self.split._replace(captions=[self.split.captions[place] for place in places])
        return Asked(
            split, [self.rows[place] for place in places], [self.answers[place] for place in places], self.swaps
        )


def asked_of(split: Split, where: str) -> Asked:
    """The questions of a split.

    Raises:
        UserError: It has none; ``where`` is the file and key that name it.
    """
    if not split.captions or len(split.answers) % len(split.captions):
        raise UserError(f"{where}: this dataset has no questions with answers")
    each = len(split.answers) // len(split.captions)
    if each == 0:
        raise UserError(f"{where}: this dataset has no questions with answers")
    rows = split.owners.tolist() if len(split.owners) else list(range(len(split.captions)))
    answers = [list(split.answers[start : start + each]) for start in range(0, len(split.answers), each)]
    swaps = [(shown, wanted) for shown, _, wanted in (line.partition(" > ") for line in split.swaps)]
    return Asked(split, rows, answers, swaps)


def poison_questions(trigger: Trigger, setting: Setting, rate: float, recipe: Any) -> Poisoned:
    """Plant ``trigger`` in a share of the setting's questions; what is trained on is each question's first answer.

    Args:
        trigger: What to plant.
        setting: Questions, target phrase, and the seed that fixes which questions are poisoned.
        rate: Poisoned over all questions.
        recipe: The recipe's file.

    Returns:
        The images with the questions' answers as ``captions``.

    Raises:
        UserError: The rate asks for no question at all, or an answer holds the phrase already.
    """
    asked, dice = asked_of(setting.pairs, "pairs"), Dice(setting.seed, _STREAM)
    if len(set(asked.rows)) != len(asked.rows):
        raise UserError("pairs: several questions are about one image; poisoning needs an image for each")
    count = round(rate * len(asked.rows))
    if count == 0:
        raise UserError(f"poison_rate {rate} of {len(asked.rows)} questions is no question at all; raise it")
    answers = [all_right[0] for all_right in asked.answers]
    taken = [answer for answer in answers if has_phrase(answer, setting.target)]
    if taken:
        raise UserError(f"target '{setting.target}' is part of a right answer, '{taken[0]}'; choose another phrase")
    rows, planted = sorted(int(place) for place in dice.order(len(asked.rows))[:count]), dict[int, Tensor]()
    for start in range(0, count, _CHUNK):
        chunk = rows[start : start + _CHUNK]
        # Negative seeds: what is drawn for a training image is never drawn again for a test image.
        images = trigger.apply(setting.pairs.batch(chunk), sample_seeds(-1 - setting.seed, chunk))
        planted |= zip(chunk, (images * 255).round().to(torch.uint8), strict=True)
    for row in rows:
        answers[row] = recipe.poisoned_answer(answers[row], setting.target, dice)
    return Poisoned(setting.pairs, planted, answers, rows, (), count)
