"""The backdoor attack at test time: every image gets the trigger that was planted in its checkpoint."""

from collections.abc import Sequence

from torch import Tensor, nn

from bench.attacks.contract import Knowledge, Result
from bench.config import Options as Closed

METRIC = "ASR"


class Options(Closed):
    """None: the trigger's own options are stored with its checkpoint."""


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge,
) -> Result:
    """Put the trigger on ``images``; without a trigger (a clean checkpoint) there is nothing to activate."""
    del model, labels, options
    if knowledge.trigger is None:
        return Result(images, eps=None)
    return Result(knowledge.trigger.apply(images, seeds), eps=None)
