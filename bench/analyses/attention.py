"""What the class token attends to: in the last block with and without a trigger (RVPT, figure 5), or in the first one.

R-Adapt's figures 3 (b), 13 and 14 show the first block, on clean images. The weights are computed again from the
block's queries and keys, averaged over heads. Patches are drawn over the image; prompts, which have no place in it, as
a strip below. The papers show maps without numbers; here every share is told.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.drawing.pixels import from_pixel_lines, pixel_lines
from bench.analyses.subjects.models import Opened, Sample, open_models, open_sample
from bench.analyses.subjects.perturbations import Planted
from bench.analyses.subjects.references import ImageReference, ModelReference
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import Trace

End = Literal["first", "last"]
_COLOURS = "YlOrRd"


class Options(ImageReference):
    """Which images and which models.

    Attributes:
        rows: Places of the images in their split.
        models: By the name of their column.
        block: Which block.
        trigger: Show every image a second time, with this trigger; not, if not given.
    """

    rows: tuple[int, ...] = Field(default=(0,), min_length=1)
    models: dict[str, ModelReference] = Field(min_length=1)
    block: End = "last"
    trigger: Planted | None = None


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each weight, and one for each line of pixels.

    ``part`` is ``class token``, ``patches`` or ``prompts``, with the token's ``place`` there and its ``weight``; or
    ``image``, with ``place`` counting the lines of ``pixels``.
    """
    sample = open_sample(source, options)
    versions = dict(_versions(source, sample, options))
    pixels = [
        {"version": version, "part": "image", "place": place, "pixels": line}
        for version, images in versions.items()
        for place, line in enumerate(pixel_lines(images[0]))
    ]
    weights = [
        {"model": model.name, "version": version, "part": part, "place": place, "weight": weight}
        for model in open_models(source, options.models, sample)
        for version, images in versions.items()
        for part, place, weight in _parts(model, class_attention(model.defended, images, options.block)[0])
    ]
    columns = ["model", "version", "part", "place", "weight", "pixels"]
    return pd.DataFrame([*pixels, *weights], columns=columns)


@torch.no_grad()
def class_attention(model: DefendedCLIP, images: Tensor, end: End = "last") -> Tensor:
    """How much the class token attends to every token, mean over heads.

    Args:
        model: Any defended CLIP.
        images: ``(n, 3, h, w)`` in [0,1].
        end: In which block.

    Returns:
        ``(n, tokens)``: class token, patches, then prompts where there are some; each row sums to 1.
    """
    trace, blocks = Trace(), model.staged.image_blocks
    model.image(images, trace)
    block, entering = (blocks[0], trace.first_input) if end == "first" else (blocks[-1], trace.last_input)
    assert entering is not None
    return model.staged.attention_weights(block, entering).mean(dim=1)[:, 0]


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """One row for each version of an image: the image itself, then the map of each model."""
    weights, models = frame[frame["part"] != "image"], list(frame["model"].dropna().unique())
    versions, prompted = list(frame["version"].unique()), bool((frame["part"] == "prompts").any())
    strips = 2 if prompted else 1
    picture = style.figure(0.7 + 1.9 * (1 + len(models)), 0.2 + (2.6 if prompted else 2.1) * len(versions))
    ratios = [1, 0.1][:strips] * len(versions)
    axes = picture.subplots(strips * len(versions), 1 + len(models), squeeze=False, height_ratios=ratios)
    # One scale for all maps, or a flat one would look as sharp as a peaked one.
    scale = Normalize(0, float(weights["weight"].max()))
    for place, version in enumerate(versions):
        image = from_pixel_lines(frame.loc[(frame["part"] == "image") & (frame["version"] == version), "pixels"])
        first, second = axes[strips * place], axes[strips * (place + 1) - 1]
        style.show(first[0], image)
        first[0].set_title(version)
        if prompted:
            second[0].set_axis_off()
        for column, model in enumerate(models, start=1):
            found = weights[(weights["model"] == model) & (weights["version"] == version)]
            shares = {str(part): 100 * share for part, share in found.groupby("part")["weight"].sum().items()}
            _draw_map(first[column], image, found, scale)
            first[column].set_title(model)
            first[column].set_xlabel(f"patches {shares['patches']:.0f} %")
            if prompted:
                _draw_prompts(second[column], found, scale)
                second[column].set_xlabel(f"prompts {shares.get('prompts', 0):.0f} %")
    bar = picture.colorbar(ScalarMappable(scale, _COLOURS), ax=axes, shrink=0.5, aspect=30)
    bar.set_label(f"attention of the class token, {options.block} block")
    return picture


def _versions(source: Source, sample: Sample, options: Options) -> Iterator[tuple[str, Tensor]]:
    """Each image by the name of its row in the picture, and again with the trigger."""
    change = None if options.trigger is None else options.trigger.open(source).apply
    for place, row in enumerate(options.rows):
        one = sample.only(row, f"{source.where}.options.rows.{place}")
        name = f"image {row}"
        yield name, next(one.batches())
        if change is not None:
            yield f"{name}, triggered", next(one.batches(change))


def _parts(model: Opened, weights: Tensor) -> Iterator[tuple[str, int, float]]:
    """Part, place in it and weight of every token."""
    patches = model.defended.staged.patches
    for part, chunk in zip(("class token", "patches", "prompts"), weights.tensor_split([1, 1 + patches]), strict=True):
        yield from ((part, place, weight) for place, weight in enumerate(chunk.tolist()))


def _draw_map(panel: Axes, image: npt.NDArray[np.uint8], found: pd.DataFrame, scale: Normalize) -> None:
    """The weights over the image in pale grey; the stronger the attention, the less of the image shows through."""
    patches = found.loc[found["part"] == "patches", "weight"].to_numpy()
    side = round(len(patches) ** 0.5)
    style.show(panel, image.mean(axis=2), cmap="gray", vmin=-255, vmax=255)
    height, width = image.shape[:2]
    weights = patches.reshape(side, side)
    panel.imshow(
        weights, cmap=_COLOURS, norm=scale, alpha=0.9 * np.sqrt(np.asarray(scale(weights))), interpolation="bilinear",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )  # fmt: skip


def _draw_prompts(panel: Axes, found: pd.DataFrame, scale: Normalize) -> None:
    prompts = found.loc[found["part"] == "prompts", "weight"].to_numpy()
    if not len(prompts):
        panel.set_axis_off()
        return
    style.show(panel, prompts[None], cmap=_COLOURS, norm=scale, aspect="auto")
    panel.spines[:].set_visible(True)
