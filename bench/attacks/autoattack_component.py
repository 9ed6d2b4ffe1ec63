"""One attack of AutoAttack (Croce and Hein, ICML 2020) alone, L-infinity, with the settings it has in the cascade.

Some papers call such a part "AutoAttack" (R-Adapt's Table 1 is APGD-CE); here it never has that name. FAB looks for
the nearest wrong image and is alone unreliable on CLIP's logits: R-Adapt's 27.7 % under FAB stands beside 0 % under
APGD. ``bench/attacks/autoattack.py`` says what few classes need. A part that does not exist for them is not replaced in
silence: with three classes untargeted DLR, and with two untargeted FAB stand in for the targeted attacks, with the
flag ``few_classes``; DLR with two classes fails.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bench.attacks import autoattack
from bench.attacks.contract import Knowledge, Result

METRIC = "RA"
BUILDS_ON = (autoattack,)
NOISE_PER_BATCH = True
Component = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
_STEPS, _QUERIES = 100, 5_000
_LEAST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4, "fab-t": 3}
_STAND_INS: dict[Component, Component] = {"apgd-t": "apgd-dlr", "fab-t": "fab"}


class Options(autoattack.Options):
    """The cascade's options, and which part of it.

    Attributes:
        component: ``apgd-ce``, ``apgd-dlr`` and targeted ``apgd-t`` (100 steps), ``fab`` and targeted ``fab-t`` (100
            steps), or ``square`` (5,000 queries).
    """

    component: Component = "apgd-ce"


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge,
) -> Result:
    """Run the component on the whole batch.

    Raises:
        ValueError: There are too few classes for it.
    """
    del seeds, knowledge
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    component, flags = options.component, frozenset[str]()
    if classes < _LEAST_CLASSES.get(component, 2):
        component, flags = _STAND_INS.get(component, component), frozenset({"few_classes"})
    if classes < _LEAST_CLASSES.get(component, 2):
        raise ValueError(f"{component} needs {_LEAST_CLASSES[component]} classes, and the model has {classes}")
    result = autoattack.run(model, images, labels, options, classes, [component])
    return result._replace(flags=result.flags | flags)


def passes(options: Options, classes: int, surrogates: int) -> tuple[int, int]:
    """About how many passes per image, forward only and with a gradient; Square needs fewer where it succeeds."""
    del surrogates
    if options.component == "square":
        return _QUERIES, 0
    targets = {"apgd-t": min(9, classes - 1), "fab-t": min(9, classes - 1), "fab": classes}
    return 0, _STEPS * targets.get(options.component, 1)
