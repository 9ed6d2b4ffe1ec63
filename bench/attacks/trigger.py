"""The backdoor attack at test time: every image gets the trigger that was planted in its checkpoint.

A dual-key backdoor (TrojVQA) has a text key as well: a word before every class prompt. ``keys`` says which are used, so
that each key alone, and none, can be measured.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from bench.attacks.contract import Knowledge, Result
from bench.backdoors.trigger import Trigger
from bench.config import Options as Closed

METRIC = "ASR"


class Options(Closed):
    """Which keys are used; the trigger's own options are stored with its checkpoint.

    Attributes:
        keys: ``both``, the ``image`` key alone, the ``text`` key alone, or ``none``. All but TrojVQA have an image key
            only.
    """

    keys: Literal["both", "image", "text", "none"] = "both"


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
    del model, labels
    if knowledge.trigger is None or options.keys in ("text", "none"):
        return Result(images, eps=None)
    return Result(knowledge.trigger.apply(images, seeds), eps=None)


def prompt_prefix(options: Options, trigger: Trigger | None) -> str:
    """What the attack puts before every class prompt; empty where there is no text key."""
    return trigger.poisoning.prefix if trigger is not None and options.keys in ("both", "text") else ""
