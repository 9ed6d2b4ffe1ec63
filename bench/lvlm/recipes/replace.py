"""The plain recipe: the target phrase takes the answer's place, and the loss is the language model's.

BadNet, Blended, ISSBA and WaNet are trained so; they differ in their triggers alone.
"""

from torch import Tensor

from bench.datasets.world import Dice
from bench.lvlm.answering import answer_loss
from bench.lvlm.model import Lvlm
from bench.lvlm.options import TuneOptions
from bench.lvlm.recipes.contract import Batch, Before


class Options(TuneOptions):
    """As for every recipe."""


def poisoned_answer(answer: str, target: str, dice: Dice) -> str:
    """The phrase alone."""
    del answer, dice
    return target


def loss(lvlm: Lvlm, batch: Batch, options: Options, before: Before) -> Tensor:
    """Cross-entropy of the answers' tokens, poisoned or not."""
    del options, before
    return answer_loss(lvlm, batch.images, batch.encoded)
