"""One image under every perturbation and trigger (RVPT: supplement, figures 1 and 3), with how much each changes it."""

import math
import textwrap

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.drawing.pixels import from_pixel_lines, pixel_lines
from bench.analyses.subjects.models import open_sample
from bench.analyses.subjects.perturbations import Perturbation
from bench.analyses.subjects.references import ImageReference


class Options(ImageReference):
    """Which image, and what is done to it.

    Attributes:
        row: Place of the image in its split.
        perturbations: By the label of their panel; the original comes first by itself.
    """

    row: int = Field(default=0, ge=0)
    perturbations: dict[str, Perturbation] = Field(min_length=1)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each version and line of pixels, with the version's peak signal-to-noise ratio in dB."""
    sample = open_sample(source, options)
    sample = sample.only(options.row, f"{source.where}.options.row")
    (original,) = sample.batches()
    versions = {"original": original} | {
        name: next(sample.batches(given.open(source))) for name, given in options.perturbations.items()
    }
    return pd.DataFrame(
        [
            {"version": name, "psnr_db": psnr(original, images), "y": y, "pixels": line}
            for name, images in versions.items()
            for y, line in enumerate(pixel_lines(images[0]))
        ]
    )


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """The versions in a grid."""
    del options
    names = list(frame["version"].unique())
    rows, columns = style.grid_of(len(names), 5)
    picture = style.figure(1.6 * columns, 2.0 * rows)
    for panel, name in zip(style.panels(picture, rows, columns, len(names)), names, strict=True):
        version = frame[frame["version"] == name]
        style.show(panel, from_pixel_lines(version["pixels"]))
        ratio = version["psnr_db"].iloc[0]
        panel.set_title(textwrap.fill(name, 18), fontsize=8.5)
        panel.set_xlabel("unchanged" if math.isinf(ratio) else f"{ratio:.1f} dB", fontsize=8)
    return picture


def psnr(original: Tensor, changed: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [0,1]; infinite where nothing changed."""
    error = (original.double() - changed.double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)
