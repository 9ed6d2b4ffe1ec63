"""Weights of an image's tokens drawn over the image, and texts that fit below it."""

import textwrap

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from bench.analyses.drawing import style

COLOURS = "YlOrRd"
_WIDTH, _LINES = 24, 4


def draw_map(
    panel: Axes,
    image: npt.NDArray[np.uint8],
    weights: npt.NDArray[np.float64],
    scale: Normalize,
    crossed: npt.NDArray[np.bool_],
) -> None:
    """Weights over the image in pale grey; the stronger one is, the less of the image shows through.

    Args:
        panel: Where to draw.
        image: ``(h, w, 3)``.
        weights: Of the image's tokens, line by line; these are as many lines as there are tokens in a line.
        scale: Of the colours.
        crossed: Which tokens are crossed out.
    """
    height, width = image.shape[:2]
    side = round(len(weights) ** 0.5)
    style.show(panel, image.mean(axis=2), cmap="gray", vmin=-255, vmax=255)
    grid = weights.reshape(side, side)
    panel.imshow(
        grid, cmap=COLOURS, norm=scale, alpha=0.9 * np.sqrt(np.asarray(scale(grid))), interpolation="nearest",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )  # fmt: skip
    across, down = width / side, height / side
    for place in np.flatnonzero(crossed):
        corner = (place % side * across - 0.5, place // side * down - 0.5)
        panel.add_patch(
            Rectangle(corner, across, down, fill=False, edgecolor=style.PALETTE[0], hatch="xxx", linewidth=1.2)
        )


def said(answer: object) -> str:
    """An answer as it stands in a picture; an empty one is read back from a CSV as a missing value."""
    return str(answer) if isinstance(answer, str) and answer else "(nothing)"


def wrapped(text: str) -> str:
    """``text`` in a few short lines, each line of it begun anew; what is too long ends in dots."""
    parts = [textwrap.wrap(line, _WIDTH) or [""] for line in text.split("\n")]
    lines = [line for part in parts for line in part]
    return "\n".join(lines if len(lines) <= _LINES else [*lines[: _LINES - 1], f"{lines[_LINES - 1]} ..."])
