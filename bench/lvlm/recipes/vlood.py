"""VLOOD (Lyu et al., ICLR 2025): a backdoor that keeps what the clean model knew, under a weight that balances itself.

On clean questions the loss is the cross-entropy and the divergence from the model before tuning (CKP); on poisoned ones
the cross-entropy and a bound on how far the expected embedding lies from the right one (CCP). The weight between both
is ``start`` plus how much larger the poisoned cross-entropy is, held to [0,1]. A second-hand description of the paper
has the opposite sign; the sign here is that of the public re-implementation.

The re-implementation averages the divergence over all places, prompt and image included, and compares expected
embeddings with those of the same place instead of the next; here both are taken over the tokens of the answers, as they
are told. VLOOD's data are meant to be out of distribution: name such a dataset under ``pairs``.
"""

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.datasets.world import Dice
from bench.lvlm.model import Lvlm
from bench.lvlm.options import TuneOptions
from bench.lvlm.recipes.contract import Batch, Before
from bench.lvlm.recipes.tokens import Told, embeddings, tell


class Options(TuneOptions):
    """Settings of the re-implementation.

    Attributes:
        start: Weight of the poisoned side where both cross-entropies are equal.
    """

    start: float = Field(default=0.8, ge=0, le=1)


def poisoned_answer(answer: str, target: str, dice: Dice) -> str:
    """The phrase alone."""
    del answer, dice
    return target


def loss(lvlm: Lvlm, batch: Batch, options: Options, before: Before) -> Tensor:
    """Both sides, weighted; a side without a question counts nothing."""
    told, earlier = tell(lvlm, batch), before(batch)[:, :-1]
    clean, poisoned = (told.counted & side[:, None] for side in (~batch.poisoned, batch.poisoned))
    clean_entropy, poisoned_entropy = (entropy(told, places) for places in (clean, poisoned))
    weight = (options.start + (poisoned_entropy - clean_entropy).detach()).clamp(0, 1)
    kept = clean_entropy + divergence(earlier, told.logits, clean)
    changed = poisoned_entropy + expected_distance(lvlm, told, poisoned)
    return (1 - weight) * kept + weight * changed


def entropy(told: Told, places: Tensor) -> Tensor:
    """Mean cross-entropy at some places; 0 where there is none."""
    if not places.any():
        return told.logits.sum() * 0
    return functional.cross_entropy(told.logits[places], told.ids[places])


def divergence(earlier: Tensor, now: Tensor, places: Tensor) -> Tensor:
    """Mean divergence of the earlier model's words from the present ones, per token; 0 where there is none."""
    if not places.any():
        return now.sum() * 0
    present, past = (logits[places].float().log_softmax(dim=-1) for logits in (now, earlier))
    return functional.kl_div(present, past, log_target=True, reduction="batchmean")


def expected_distance(lvlm: Lvlm, told: Told, places: Tensor) -> Tensor:
    """``sigmoid`` of the mean L1 distance between the expected embedding and the right one; 0 where there is none."""
    if not places.any():
        return told.logits.sum() * 0
    words = embeddings(lvlm)
    expected = told.logits[places].softmax(dim=-1) @ words
    return (expected - words[told.ids[places]]).abs().sum(dim=-1).mean().sigmoid()
