"""How alike the layers of two models are: linear Centered Kernel Alignment (R-Adapt, equation 3, figure 2 a).

Every block of the standard model against every block of another one, on the same images. 1 means alike up to a rotation
and a scale. The paper does not say which token it takes; here it is the class token that a block puts out, or the mean
over the patches. A block that gives the same for every image is like no other, and its line is empty.
"""

from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.subjects.models import Loaded, Sample, load_models, open_sample
from bench.analyses.subjects.references import ImageReference, ModelReference
from bench.clip.staged import Trace

Token = Literal["class", "patches"]
_COLOURS, _EMPTY = "viridis", "#D9D9D9"


class Options(ImageReference):
    """The paper does not say how many images it takes.

    Attributes:
        standard: The model on the vertical axis.
        models: Those on the horizontal axes, by the name of their panel.
        token: What stands for a block's output.
    """

    images: int | None = Field(default=1000, gt=1)
    standard: ModelReference
    models: dict[str, ModelReference] = Field(min_length=1)
    token: Token = "class"


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each model and pair of blocks: ``block`` of the standard model, ``other_block`` of the other."""
    sample = open_sample(source, options)
    (standard,) = load_models(source, {"standard": options.standard}, options.dataset)
    own, lines = outputs(standard, sample, options.token), list[dict[str, Any]]()
    for model in load_models(source, options.models, options.dataset):
        for other_block, other in enumerate(outputs(model, sample, options.token), start=1):
            for block, output in enumerate(own, start=1):
                about = {"model": model.name, "block": block, "other_block": other_block, "n": len(sample.rows)}
                lines.append(about | {"cka": alignment(output, other)})
    return pd.DataFrame(lines)


@torch.no_grad()
def outputs(model: Loaded, sample: Sample, token: Token) -> list[Tensor]:
    """What each block puts out for the images of ``sample``: ``(n, width)``, float64."""
    found = list[list[Tensor]]()
    patches = model.defended.staged.patches
    for images in sample.batches():
        trace = Trace(every_token=token == "patches")
        model.defended.image(images, trace)
        own = (
            trace.class_tokens if token == "class" else [each[:, 1 : 1 + patches].mean(dim=1) for each in trace.tokens]
        )
        found.append([each.cpu().double() for each in own])
    return [torch.cat(batches) for batches in zip(*found, strict=True)]


def alignment(first: Tensor, second: Tensor) -> float:
    """Linear CKA of two representations of the same images; NaN where one of them is constant.

    Args:
        first: ``(n, d)``.
        second: ``(n, e)``, the widths may differ.
    """
    grams = [own @ own.T for own in (first - first.mean(dim=0), second - second.mean(dim=0))]
    inner = (grams[0] * grams[1]).sum()
    norms = [gram.norm() for gram in grams]
    # Rounding of a mean leaves about 1e-16 of the outputs, and that of float32 outputs about 1e-7.
    flat = any(norm <= 1e-12 * own.square().sum() for norm, own in zip(norms, (first, second), strict=True))
    return float("nan") if flat else float(inner / (norms[0] * norms[1]))


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """One map for each model, blocks of the standard model upwards."""
    del options
    models = list(frame["model"].unique())
    rows, columns = style.grid_of(len(models), 3)
    picture = style.figure(0.9 + 2.6 * columns, 0.3 + 2.7 * rows)
    axes, scale = style.panels(picture, rows, columns, len(models)), Normalize(0, 1)
    for axis, model in zip(axes, models, strict=True):
        found = frame[frame["model"] == model].pivot(index="block", columns="other_block", values="cka")
        axis.imshow(found, origin="lower", cmap=_COLOURS, norm=scale, interpolation="nearest", aspect="auto")
        axis.set_facecolor(_EMPTY)
        axis.grid(visible=False)
        _number(axis.set_xticks, list(found.columns))
        _number(axis.set_yticks, list(found.index))
        axis.set_title(model)
        axis.set_xlabel(f"block of {model}")
    for axis in axes[::columns]:
        axis.set_ylabel("block of the standard model")
    picture.colorbar(ScalarMappable(scale, _COLOURS), ax=axes, shrink=0.8).set_label("CKA")
    return picture


def _number(set_ticks: Any, blocks: list[int]) -> None:
    """Ticks at blocks, few enough to be read."""
    places = np.arange(0, len(blocks), -(-len(blocks) // 12))
    set_ticks(places, [blocks[place] for place in places])
