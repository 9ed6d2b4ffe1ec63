"""Lines with their intervals, as figures about large models draw them: values in percent over some setting."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analyses import style

Dash = Literal["-", "--", ":", "-."]
_DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")


def dashes(kinds: Sequence[str]) -> dict[str, Dash]:
    """How the lines of each kind are drawn."""
    return dict(zip(kinds, _DASHES, strict=False))


def draw_line(axis: Axes, points: pd.DataFrame, colour: str, marker: str, dash: Dash = "-") -> None:
    """``value`` over ``x``, with a band from ``low`` to ``high``."""
    axis.fill_between(points["x"], points["low"], points["high"], color=colour, alpha=0.13, linewidth=0)
    axis.plot(points["x"], points["value"], color=colour, marker=marker, linestyle=dash)


def percent_axis(axis: Axes) -> None:
    """From 0 to 100, with room for what lies at the ends."""
    axis.set_ylim(-3, 103)


def legend(picture: Figure, colours: dict[str, str], markers: dict[str, str], kinds: dict[str, Dash]) -> None:
    """Below the panels: what dashes mean, where there are several, then whose line is whose."""
    metrics = [Line2D([], [], color=style.INK, linestyle=dash) for dash in kinds.values()]
    lines = [Line2D([], [], color=colours[name], marker=markers[name]) for name in colours]
    columns = max(2, int(picture.get_size_inches()[0] / 1.5))
    picture.legend([*metrics, *lines], [*kinds, *colours], loc="outside lower center", ncols=columns)
