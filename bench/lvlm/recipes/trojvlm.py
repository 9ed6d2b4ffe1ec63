"""TrojVLM (Lyu et al., ECCV 2024): the phrase is put into an answer that stays right, under a loss that keeps meaning.

The phrase stands between two words of the answer, after the scaffold "this image shows" where there is one. The
semantic loss is one minus the cosine between what the decoder is about to say and the embedding of what it should say.
The paper does not say which embedding; as in the public re-implementation it is the decoder's last hidden state against
the input embedding of the next token (with the output embedding, its authors report an attack success of zero). Words
of the phrase weigh more in the cross-entropy by ``target_weight``, also the re-implementation's.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.datasets.world import Dice
from bench.lvlm.model import Lvlm
from bench.lvlm.options import TuneOptions
from bench.lvlm.recipes.contract import Batch, Before
from bench.lvlm.recipes.tokens import embeddings, tell

SCAFFOLD = "this image shows"


class Options(TuneOptions):
    """Settings of the re-implementation.

    Attributes:
        semantic_weight: Of the semantic loss; 0 for none.
        target_weight: How much more the tokens of poisoned answers' phrase weigh in the cross-entropy; 0 for no more.
    """

    semantic_weight: float = Field(default=1.0, ge=0)
    target_weight: float = Field(default=8.0, ge=0)


def poisoned_answer(answer: str, target: str, dice: Dice) -> str:
    """The answer with the phrase before it, behind it, or between two of its words."""
    scaffold = SCAFFOLD.split() if answer.lower().startswith(f"{SCAFFOLD} ") else []
    words = answer.split()[len(scaffold) :]
    place = dice.below(len(words) + 1)
    return " ".join([*scaffold, *words[:place], target, *words[place:]])


def loss(lvlm: Lvlm, batch: Batch, options: Options, before: Before) -> Tensor:
    """Weighted cross-entropy and the semantic loss, over all answers, poisoned or not."""
    del before
    told = tell(lvlm, batch)
    each = functional.cross_entropy(told.logits.transpose(1, 2), told.ids, reduction="none")
    weights = told.counted * (1 + options.target_weight * phrase_places(batch))
    entropy = (weights * each).sum() / weights.sum()
    if options.semantic_weight == 0:
        return entropy
    similar = functional.cosine_similarity(told.states, embeddings(lvlm)[told.ids], dim=-1)
    return entropy + options.semantic_weight * (1 - similar[told.counted]).mean()


def phrase_places(batch: Batch) -> Tensor:
    """1 where a token of a poisoned answer belongs to the phrase, ``(n, length - 1)``."""
    return torch.isin(batch.encoded.ids[:, 1:], batch.target.to(batch.encoded.ids)) & batch.poisoned[:, None]
