"""Perturbation Resistivity (RVPT, equation 1): how much less an image's features move than its logits.

PR = E[cos(phi(x), phi(x'))] / E[cos(g(x), g(x'))] over images x and their perturbed versions x', with phi the features
before the text classifier and g the logits. CLIP's logits share a large offset, so the denominator is close to 1; it
is always told beside the ratio.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.analyses.subjects.models import Features, Opened, Sample
from bench.analyses.subjects.perturbations import Change

Floats = npt.NDArray[np.float64]


class Cosines(NamedTuple):
    """Cosines of each image with its perturbed version: of its features and of its logits, both ``(n,)``."""

    features: Floats
    logits: Floats


class Estimate(NamedTuple):
    """A mean or a ratio of means, with its bootstrap 95 % interval over images."""

    value: float
    low: float
    high: float


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of each row of ``first`` with the same row of ``second``; exactly 1 where the rows are equal."""
    inner = (first * second).sum(dim=-1)
    # The root of a product of two sums of squares, and not a product of norms: only so do roundings cancel.
    return inner / ((first * first).sum(dim=-1) * (second * second).sum(dim=-1)).sqrt()


def cosines(model: Opened, sample: Sample, changes: Mapping[str, Change], kind: Features) -> dict[str, Cosines]:
    """How a model sees the images of ``sample`` before and after each of ``changes``."""
    features, logits = model.features(sample, kind), model.logits(sample)
    return {
        name: Cosines(
            cosine(features, model.features(sample, kind, change)).numpy(),
            cosine(logits, model.logits(sample, change)).numpy(),
        )
        for name, change in changes.items()
    }


def resistivity(measured: Cosines, resamples: int = 0, seed: int = 0) -> dict[str, Estimate]:
    """PR with its numerator and its denominator.

    Args:
        measured: Cosines of some images.
        resamples: Bootstrap samples for the intervals; without any, these are NaN.
        seed: Fixes the bootstrap samples.

    Returns:
        ``pr``, ``features`` (its numerator) and ``logits`` (its denominator).
    """
    count = len(measured.features)
    rows = np.random.default_rng(seed).integers(0, count, (resamples, count))
    drawn = [measured.features[rows].mean(axis=1), measured.logits[rows].mean(axis=1)]
    features, logits = float(measured.features.mean()), float(measured.logits.mean())
    return {
        "pr": _estimate(features / logits, drawn[0] / drawn[1]),
        "features": _estimate(features, drawn[0]),
        "logits": _estimate(logits, drawn[1]),
    }


def intra_class(features: Tensor, labels: Tensor) -> Floats:
    """For each image the mean cosine of its features with those of the others of its class; NaN for a class of one.

    Args:
        features: ``(n, d)``.
        labels: ``(n,)``.
    """
    directions = torch.nn.functional.normalize(features, dim=-1)
    sums = torch.zeros(int(labels.max()) + 1, features.shape[1], dtype=features.dtype).index_add(0, labels, directions)
    others = torch.bincount(labels)[labels] - 1
    means = ((directions * sums[labels]).sum(dim=-1) - 1) / others
    return means.masked_fill(others == 0, torch.nan).numpy()


def _estimate(value: float, drawn: Floats) -> Estimate:
    if not len(drawn):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high))
