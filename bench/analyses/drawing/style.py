"""One look for all pictures: colours that colour-blind people can tell apart, plain axes, files that do not vary."""

import io
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito (2008), the dark ones first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GRID = "#262626", "#E3E3E3"
_RESOLUTION = 130
_LOOK: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8C8C8C",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
}


def look() -> AbstractContextManager[None]:
    """While it lasts, matplotlib draws in the common look, whatever the user's own settings are."""
    return matplotlib.style.context(["default", _LOOK])


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height))


def grid_of(count: int, most: int) -> tuple[int, int]:
    """Rows and columns for ``count`` panels, with at most ``most`` beside each other and the rows equally full."""
    rows = -(-count // most)
    return rows, -(-count // rows)


def panels(picture: Figure, rows: int, columns: int, count: int, **options: Any) -> list[Axes]:
    """``count`` axes in a grid, row by row; places that are left over stay empty."""
    axes: list[Axes] = picture.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for spare in axes[count:]:
        spare.set_axis_off()
    return axes[:count]


def colours(names: Iterable[str], palette: Sequence[str] = PALETTE) -> dict[str, str]:
    """A colour for each name, in order; they repeat if there are more names than colours."""
    return {name: palette[place % len(palette)] for place, name in enumerate(dict.fromkeys(names))}


def markers(names: Iterable[str]) -> dict[str, str]:
    """A marker for each name, in order."""
    return {name: MARKERS[place % len(MARKERS)] for place, name in enumerate(dict.fromkeys(names))}


def class_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each of many classes: the palette while it lasts, else evenly around the colour circle."""
    every = list(dict.fromkeys(names))
    if len(every) < len(PALETTE):
        return colours(every)
    circle = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(every)))
    return dict(zip(every, map(to_hex, circle), strict=True))


def show(axes: Axes, image: npt.NDArray[Any], **options: Any) -> None:
    """An image without ticks or frame, and with its pixels as they are."""
    axes.imshow(image, interpolation="nearest", **options)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def png(picture: Figure) -> bytes:
    """The picture's file; the same picture always gives the same bytes."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    picture.savefig(drawn, format="png", dpi=_RESOLUTION)
    image = Image.open(drawn).convert("RGB")
    if not any(axes.images for axes in picture.axes):
        # Lines and text need no more, and the file becomes a third as large; a trigger needs its own colours.
        image = image.quantize(256, dither=Image.Dither.NONE)
    # Saved anew, because matplotlib writes its own version into the file.
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
