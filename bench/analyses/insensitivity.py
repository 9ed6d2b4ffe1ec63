"""Whether the first attention answers the same to every image (R-Adapt, figure 10).

The output of the first block's attention, all tokens side by side, of one model on one image is compared by cosine
with that of another model on another image: on a random other one, and on a white one. Entries beside the diagonal
compare two models. 1 means that the image makes no difference. The paper does not say which tokens it compares.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.formulas.similarity import cosine
from bench.analyses.subjects.models import load_models, open_sample
from bench.analyses.subjects.references import ImageReference, ModelReference
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import Trace
from bench.errors import UserError
from bench.randomness import generator

_PANELS = {"random": "two random images", "white": "a random image and a white one"}
_SEEN = {"random": "another image", "white": "a white image"}
_BATCH = 64


class Options(ImageReference):
    """The paper compares 300 images.

    Attributes:
        images: How many; each is compared with one other.
        models: By the name of their row; each with each.
    """

    images: int | None = Field(default=300, gt=1)
    models: dict[str, ModelReference] = Field(min_length=1)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each pair of models and ``against`` (``random`` or ``white``).

    ``model`` sees the images and ``other`` what they are compared with; ``cosine`` is the mean over images, ``low``
    and ``high`` its 95 % interval (normal approximation).
    """
    sample = open_sample(source, options)
    images = sample.split.batch(sample.rows)
    models = {model.name: model.defended for model in load_models(source, options.models, options.dataset)}
    partners = other_images(len(images), options.seed)
    seen = {name: first_attentions(model, images) for name, model in models.items()}
    white = {name: first_attentions(model, torch.ones_like(images[:1])) for name, model in models.items()}
    lines = list[dict[str, Any]]()
    for name, own in seen.items():
        for other in models:
            _check_alike(source, models, name, other)
            for against, compared in (("random", seen[other][partners]), ("white", white[other])):
                cosines = cosine(own, compared)
                mean, half = cosines.mean().item(), 1.96 * cosines.std().item() / len(cosines) ** 0.5
                lines.append(
                    {
                        "model": name, "other": other, "against": against, "n": len(cosines), "cosine": mean,
                        "low": mean - half, "high": mean + half,
                    }
                )  # fmt: skip
    return pd.DataFrame(lines)


@torch.no_grad()
def first_attentions(model: DefendedCLIP, images: Tensor) -> Tensor:
    """What the first block's attention adds to each image's own tokens, side by side: ``(n, tokens * width)``."""
    own, found = 1 + model.staged.patches, list[Tensor]()
    for batch in images.split(_BATCH):
        trace = Trace()
        model.image(batch, trace)
        assert trace.first_attention is not None
        found.append(trace.first_attention[:, :own].flatten(1).cpu())
    return torch.cat(found)


def other_images(count: int, seed: int) -> Tensor:
    """For each of ``count`` images another one; no image stands twice."""
    order = torch.randperm(count, generator=generator(seed))
    return torch.empty_like(order).scatter(0, order, order.roll(1))


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """Two matrices of cosines, with the numbers in them."""
    models = list(options.models)
    picture = style.figure(1.6 + 1.1 * len(models) * 2, 1.2 + 0.75 * len(models))
    for axis, (against, title) in zip(picture.subplots(1, 2), _PANELS.items(), strict=True):
        found = frame[frame["against"] == against].pivot(index="model", columns="other", values="cosine")
        names = list(frame["model"].unique())
        _draw_matrix(axis, found.loc[names, names].to_numpy(), names)
        axis.set_title(title)
        axis.set_ylabel("sees an image")
        axis.set_xlabel(f"sees {_SEEN[against]}")
    return picture


def _draw_matrix(axis: Axes, values: "np.ndarray[Any, Any]", names: list[str]) -> None:
    axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
    axis.grid(visible=False)
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.65 else style.INK
        axis.annotate(f"{value:.3f}", (column, row), ha="center", va="center", color=colour)


def _check_alike(source: Source, models: dict[str, DefendedCLIP], name: str, other: str) -> None:
    first, second = (models[each].staged for each in (name, other))
    if (first.patches, first.image_width) != (second.patches, second.image_width):
        raise UserError(
            f"{source.where}.options.models: '{name}' is a '{first.clip.architecture}' and '{other}' a "
            f"'{second.clip.architecture}', whose tokens cannot be compared; name models of one architecture"
        )
