"""Perturbation Resistivity of several models under several perturbations (RVPT: supplement, table 1).

The paper prints the ratio alone. Its numerator and denominator are told here too, because CLIP's logits have a large
common offset, so that the denominator is close to 1 and the ratio follows the features. The paper's values for noise
are too low for images in [0,1] at the stated standard deviations; no table here should be expected to meet them.
"""

from collections.abc import Callable
from typing import Any

import pandas as pd
from pydantic import Field
from tabulate import tabulate

from bench.analyses.contract import Source
from bench.analyses.formulas.similarity import cosines, resistivity
from bench.analyses.subjects.models import Features, open_models, open_sample
from bench.analyses.subjects.perturbations import Perturbation
from bench.analyses.subjects.references import ImageReference, ModelReference


class Options(ImageReference):
    """The paper takes 5,000 images of ImageNet's validation split.

    Attributes:
        models: By the name of their column.
        perturbations: By the name of their row.
        features: What phi is: the image embedding, or the class token after the last LayerNorm.
        resamples: Bootstrap samples for the intervals.
    """

    models: dict[str, ModelReference] = Field(min_length=1)
    perturbations: dict[str, Perturbation] = Field(min_length=1)
    features: Features = "embedding"
    resamples: int = Field(default=1000, gt=0)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each model, perturbation and quantity (``pr``, ``features``, ``logits``)."""
    sample = open_sample(source, options)
    changes = {name: given.open(source) for name, given in options.perturbations.items()}
    return pd.DataFrame(
        [
            {"model": model.name, "perturbation": name, "quantity": quantity, **told._asdict(), "n": len(sample.rows)}
            for model in open_models(source, options.models, sample)
            for name, measured in cosines(model, sample, changes, options.features).items()
            for quantity, told in resistivity(measured, options.resamples, options.seed).items()
        ]
    )


def table(frame: pd.DataFrame, options: Options) -> str:
    """Ratios with their intervals, and below them numerators and denominators."""
    ratios = _written(frame, lambda pr, features, logits: f"{pr.value:.3f} [{pr.low:.3f}, {pr.high:.3f}]")
    parts = _written(frame, lambda pr, features, logits: f"{features.value:.3f} / {logits.value:.3f}")
    reading = (
        f"Perturbation Resistivity: mean cosine of the features ({options.features.replace('_', ' ')}) of original and "
        "perturbed images, over mean cosine of their logits. Brackets hold the bootstrap 95 % interval over "
        f"{frame['n'].iloc[0]} images of {options.dataset} ({options.split})."
    )
    return f"{ratios}\n\n{reading}\n\n## Features / logits\n\n{parts}"


def _written(frame: pd.DataFrame, write: Callable[[Any, Any, Any], str]) -> str:
    """Perturbations by models; ``write`` gets the three quantities of a place."""
    found = {(line.perturbation, line.model, line.quantity): line for line in frame.itertuples()}
    models = list(frame["model"].unique())
    lines = [
        [name, *(write(*(found[name, model, part] for part in ("pr", "features", "logits"))) for model in models)]
        for name in frame["perturbation"].unique()
    ]
    return tabulate(lines, ["perturbation", *models], tablefmt="pipe", disable_numparse=True)
