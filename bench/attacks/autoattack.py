"""AutoAttack (Croce and Hein, ICML 2020), L-infinity, version ``standard``, run by the ``pyautoattack`` package.

APGD-CE, targeted APGD-DLR, targeted FAB and Square, 100 steps or 5,000 queries each, on the images that are still
robust. Fewer than ten classes need care, which the package does not take (it crashes): the number of target classes is
at most classes - 1; with three classes the targeted DLR loss does not exist and untargeted DLR stands in; with two, no
DLR loss exists and FAB runs untargeted. The package's warnings become flags.

Its noise is drawn per batch, so the suite's fixed ``batch_size`` is part of what is measured.
"""

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import pyautoattack
import torch
from pyautoattack import checks
from pydantic import Field
from torch import Tensor, nn

from bench.attacks.contract import Knowledge, Result
from bench.config import Options as Closed

METRIC = "RA"
NOISE_PER_BATCH = True
_LOGGER = logging.getLogger("auto-attack")
_FLAGS = {
    "randomized defense": "randomised",
    "probability distribution": "probabilities",
    "zero gradient": "zero_gradient",
    "dynamic defense": "dynamic",
    "Square Attack has decreased": "square_beats_gradients",
}
_MOST_TARGETS = 9


class Options(Closed):
    """The standard version has one parameter, ``eps``, in /255; the seed makes it repeatable."""

    eps: float = Field(default=1.0, ge=0)
    seed: int = 0


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge,
) -> Result:
    """Run the cascade on the whole batch."""
    del seeds, knowledge
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    return run(model, images, labels, options, classes)


def run(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    options: Options,
    classes: int,
    components: Sequence[str] | None = None,
) -> Result:
    """Run the cascade, or only ``components`` of it, on the whole batch; the package's warnings become flags."""
    cascade = build(model, classes, options, images.device)
    if components is not None:
        cascade.attacks_to_run = list(components)
    # The package counts gradient calls in a global and never resets it; one dynamic model would mark all later ones.
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    with _warnings() as messages:
        adversarial, _ = cascade.run_standard_evaluation(images, labels, batch_size=len(images))
    flags = {flag for phrase, flag in _FLAGS.items() if any(phrase in message for message in messages)}
    return Result(adversarial, options.eps / 255, frozenset(flags))


def build(
    model: nn.Module, classes: int, options: Options, device: torch.device | str = "cpu"
) -> pyautoattack.AutoAttack:
    """The standard cascade, fitted to the number of classes."""
    attacks = {2: ["apgd-ce", "fab", "square"], 3: ["apgd-ce", "apgd-dlr", "fab-t", "square"]}
    cascade = pyautoattack.AutoAttack(model, eps=options.eps / 255, seed=options.seed, device=device)
    cascade.attacks_to_run = attacks.get(classes, cascade.attacks_to_run)
    targets = min(_MOST_TARGETS, classes - 1)
    cascade.apgd_targeted.n_target_classes = cascade.fab.n_target_classes = targets
    return cascade


@contextmanager
def _warnings() -> Generator[list[str]]:
    """Collect what the package warns about, instead of printing it."""
    messages = list[str]()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler, propagate = Collector(logging.WARNING), _LOGGER.propagate
    _LOGGER.addHandler(handler)
    _LOGGER.propagate = False
    try:
        yield messages
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.propagate = propagate
