"""Which questions of a split are asked, what an attacker makes of their images, and the verdicts on the answers.

Evaluations and analyses share it, so that both ask the same questions about the same images. An image is attacked once
for all questions of a batch that are about it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.attacks.checked import Attacked, attack_in_parts
from bench.datasets.sampling import even_sample, spread
from bench.evaluation.adversary import Attacker
from bench.lvlm.answering import LONGEST
from bench.lvlm.poison import Asked
from bench.lvlm.verdict import named, verdict
from bench.lvlm.views import Sight
from bench.randomness import sample_seeds

# Longest free answer in tokens, where an answer need only name an object.
_FREE = 64


def chosen(asked: Asked, size: int | None) -> list[int]:
    """Places of ``size`` questions: evenly over their kinds where the dataset has kinds, else over all."""
    kinds = asked.split.labels
    if len(kinds) == len(asked.rows):
        return even_sample(kinds, size).tolist()
    return spread(len(asked.rows), size)


def attacked_images(
    attacker: Attacker, sight: Sight, asked: Asked, places: Sequence[int], seed: int
) -> tuple[Attacked, Tensor]:
    """The images that the questions at ``places`` are about, attacked.

    Args:
        attacker: Who attacks.
        sight: What the attacker sees.
        asked: The questions.
        places: Which of them.
        seed: Of what is drawn for each image.

    Returns:
        The attacked images, each once, and the image of each question ``(n, 3, h, w)``.
    """
    rows = sorted({asked.rows[place] for place in places})
    swaps = [asked.swaps[row] for row in rows] if asked.swaps else []
    words = sorted({word for swap in swaps for word in swap})
    view, labels = sight(words), torch.zeros(len(rows), dtype=torch.long)
    if swaps:
        labels = torch.tensor([[words.index(word) for word in swap] for swap in swaps])
    attacked = attack_in_parts(
        attacker.module,
        view.source,
        asked.split.batch(rows),
        labels,
        options=attacker.options,
        seeds=sample_seeds(seed, rows),
        knowledge=view.knowledge,
    )
    return attacked, attacked.images[[rows.index(asked.rows[place]) for place in places]]


def longest_answer(asked: Asked) -> int:
    """In tokens."""
    return _FREE if asked.swaps else LONGEST


def verdicts(asked: Asked, places: Sequence[int], texts: Sequence[str], target: str) -> list[int]:
    """What became of each answer; ``target`` is the attacker's phrase, empty if there is none."""
    pairs = list(zip(texts, places, strict=True))
    if asked.swaps:
        return [named(text, *asked.swaps[asked.rows[place]]) for text, place in pairs]
    return [verdict(text, asked.answers[place], target) for text, place in pairs]
