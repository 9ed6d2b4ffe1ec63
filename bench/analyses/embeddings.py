"""Where clean and triggered images lie among each other in a model's embedding space (RVPT, figure 6).

t-SNE (scikit-learn, started from the principal components) of the embeddings of some images with and without the
trigger that the model's checkpoint was poisoned with. Two numbers say what the eye sees, both measured on the
embeddings themselves and not on the map: the mean silhouette of the triggered images, with clean and triggered images
as the two clusters (near 1: a cluster of their own), and their mean cosine with the same images without the trigger.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import Field
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.formulas.similarity import cosine
from bench.analyses.subjects.models import Opened, Sample, open_models, open_sample
from bench.analyses.subjects.references import ImageReference, ModelReference
from bench.errors import UserError


class Options(ImageReference):
    """The paper states no settings.

    Attributes:
        models: By the name of their panel; every checkpoint needs a trigger.
        perplexity: t-SNE's number of neighbours.
    """

    images: int | None = Field(default=120, gt=3)
    models: dict[str, ModelReference] = Field(min_length=1)
    perplexity: float = Field(default=30.0, gt=1)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each model, image and ``version`` (``clean`` or ``triggered``).

    ``x`` and ``y`` are the place on the map; ``silhouette`` and ``own_cosine`` stand with the triggered versions.
    """
    sample = open_sample(source, options)
    if options.perplexity >= 2 * len(sample.rows):
        raise UserError(f"{source.where}.options.perplexity: must be below twice the {len(sample.rows)} images")
    return pd.concat(
        [_measure(source, model, sample, options) for model in open_models(source, options.models, sample)]
    )


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """The maps, one panel for each model."""
    del options
    models = list(frame["model"].unique())
    rows, columns = style.grid_of(len(models), 3)
    picture = style.figure(3.1 * columns, 0.6 + 3.2 * rows)
    colour = style.class_colours(frame["class"].unique())
    for panel, model in zip(style.panels(picture, rows, columns, len(models)), models, strict=True):
        _draw_map(panel, frame[frame["model"] == model], colour)
        triggered = frame[(frame["model"] == model) & (frame["version"] == "triggered")]
        silhouette, own = triggered["silhouette"].mean(), triggered["own_cosine"].mean()
        panel.set_title(f"{model}\nsilhouette {silhouette:.2f}, cosine to own {own:.2f}")
    shapes = [Line2D([], [], linestyle="", color=style.INK, **_marker(version)) for version in ("clean", "triggered")]
    classes = [Line2D([], [], linestyle="", marker="o", markersize=4.5, color=shade) for shade in colour.values()]
    labels = ["clean", "triggered", *colour]
    picture.legend([*shapes, *classes], labels, loc="outside lower center", ncols=7, handletextpad=0.1, columnspacing=1)
    return picture


def separation(clean: Tensor, triggered: Tensor) -> tuple[list[float], list[float]]:
    """How far the triggered images are a cluster of their own.

    Args:
        clean: Embeddings ``(n, d)``.
        triggered: Embeddings ``(n, d)`` of the same images with the trigger.

    Returns:
        For each triggered image its silhouette (by cosine distance) and its cosine with its own clean version.
    """
    both = torch.cat([clean, triggered])
    clusters = [0] * len(clean) + [1] * len(triggered)
    silhouettes = np.asarray(silhouette_samples(both.numpy(), clusters, metric="cosine"))[len(clean) :]
    return silhouettes.tolist(), cosine(clean, triggered).tolist()


def _measure(source: Source, model: Opened, sample: Sample, options: Options) -> pd.DataFrame:
    trigger = model.checkpoint.trigger
    if trigger is None:
        raise UserError(f"{source.where}: the checkpoint of model '{model.name}' has no trigger; name a backdoored one")
    clean, triggered = model.features(sample), model.features(sample, change=trigger.apply)
    silhouettes, own = separation(clean, triggered)
    both = torch.nn.functional.normalize(torch.cat([clean, triggered]), dim=-1).numpy()
    tsne = TSNE(init="pca", perplexity=options.perplexity, random_state=options.seed)
    place = tsne.fit_transform(both)
    names, count = sample.manifest.description.class_names, len(sample.rows)
    return pd.DataFrame(
        {
            "model": model.name,
            "row": sample.rows * 2,
            "class": [names[label] for label in sample.labels.tolist()] * 2,
            "version": ["clean"] * count + ["triggered"] * count,
            "x": place[:, 0],
            "y": place[:, 1],
            "silhouette": [None] * count + silhouettes,
            "own_cosine": [None] * count + own,
        }
    )


def _draw_map(panel: Axes, images: pd.DataFrame, colour: dict[str, str]) -> None:
    for version, drawn in images.groupby("version", sort=False):
        shades = [colour[name] for name in drawn["class"]]
        look = _marker(str(version))
        panel.scatter(
            drawn["x"], drawn["y"], s=look["markersize"] ** 2, c=shades, marker=look["marker"], linewidths=0.3,
            edgecolors="white" if version == "clean" else style.INK, alpha=0.9,
        )  # fmt: skip
    panel.set_xticks([])
    panel.set_yticks([])
    for side in panel.spines.values():
        side.set_visible(True)


def _marker(version: str) -> dict[str, Any]:
    return {"clean": {"marker": "o", "markersize": 4.0}, "triggered": {"marker": "*", "markersize": 8.0}}[version]
