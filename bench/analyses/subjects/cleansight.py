"""CleanSight as analyses look into it: its options and calibration questions, and how well distances tell attacks."""

from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.subjects.lvlms import BackdooredReference, Questioned
from bench.backdoors.trigger import Trigger
from bench.config import Suite
from bench.defenses import cleansight
from bench.defenses.artefact import Part
from bench.lvlm.answering import encode, inputs_of
from bench.lvlm.attention import opened
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.questions import Questions

_METHOD = "cleansight"


class GuardedReference(BackdooredReference):
    """CleanSight on a backdoored model, alone."""

    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """Those of every backdoored model, and another defense."""
        yield from super().faults(suite, key)
        known = self.track in suite.tracks and self.defense in suite.tracks[self.track].defenses
        if known and suite.tracks[self.track].method(self.defense) != _METHOD:
            yield f"{key}.defense: '{self.defense}' is not CleanSight alone; name a defense with the method {_METHOD}"


class Auroc(NamedTuple):
    """How often an attack lies farther from clean questions than a clean one, in percent, with a 95 % interval."""

    value: float
    low: float
    high: float


def settings_of(parts: list[Part]) -> cleansight.Options:
    """CleanSight's options in the suite, where it is the only part."""
    (part,) = parts
    return cast(cleansight.Options, part.options)


def calibration(source: Source, reference: GuardedReference, parts: list[Part]) -> Questions:
    """The questions that the defense is calibrated on in its track."""
    from bench.lvlm.fitting import questions_of

    where = f"{source.paths.suite}: tracks.{reference.track}.defenses.{reference.defense}"
    questions = questions_of(parts[0], source.suite.tracks[reference.track].pairs, source.paths, where)
    assert questions is not None
    return questions


@torch.no_grad()
def ratios(victim: DefendedLvlm, rule: cleansight.Rule, sample: Questioned, trigger: Trigger | None) -> Tensor:
    """Attention on the image over that on the question, ``(n, layers x heads)``, in the rule's layers."""
    found, lvlm = list[Tensor](), victim.lvlm
    for batch in sample.batches(trigger):
        encoded = encode(lvlm, batch.texts)
        watch = cleansight.Watch(rule, encoded, lvlm.image_token_id)
        with opened(lvlm, watch):
            lvlm.model(**inputs_of(lvlm, batch.images, encoded))
        found.append(watch.ratios)
    return torch.cat(found)


def auroc(
    clean: npt.NDArray[np.float64], triggered: npt.NDArray[np.float64], resamples: int = 0, seed: int = 1
) -> Auroc:
    """The area under the ROC curve of distances; its interval is a bootstrap's over the questions.

    Args:
        clean: Distances of clean questions.
        triggered: Those of triggered ones.
        resamples: Of the bootstrap; without any, the interval is NaN.
        seed: Of the bootstrap.
    """
    labels, stream = np.repeat([0, 1], [len(clean), len(triggered)]), np.random.default_rng(seed)

    def area(*distances: npt.NDArray[np.float64]) -> float:
        return 100 * float(roc_auc_score(labels, np.concatenate(distances)))

    drawn = [
        area(*(values[stream.integers(len(values), size=len(values))] for values in (clean, triggered)))
        for _ in range(resamples)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5]) if drawn else (np.nan, np.nan)
    return Auroc(area(clean, triggered), float(low), float(high))
