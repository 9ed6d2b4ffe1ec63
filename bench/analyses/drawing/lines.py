"""Lines with their intervals, as figures about large models draw them: values in percent over some setting."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analyses.drawing import style

Dash = Literal["-", "--", ":", "-."]
_DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")
# CleanSight's suites have eight backdoors, one more than the common palette has colours.
_PALETTE, _MARKERS = (*style.PALETTE, "#8C510A"), (*style.MARKERS, "<")
# Bands of more lines hide each other.
_MOST_BANDS = 4


class Looks(NamedTuple):
    """How lines are told apart.

    Attributes:
        colours: By the name of the line.
        markers: The same.
    """

    colours: dict[str, str]
    markers: dict[str, str]

    def draw(self, axis: Axes, points: pd.DataFrame, name: str, dash: Dash = "-", *, band: bool = True) -> None:
        """``value`` over ``x``, with a band from ``low`` to ``high``, paler where there are many lines."""
        colour, alpha = self.colours[name], 0.13 if len(self.colours) <= _MOST_BANDS else 0.05
        if band:
            axis.fill_between(points["x"], points["low"], points["high"], color=colour, alpha=alpha, linewidth=0)
        axis.plot(points["x"], points["value"], color=colour, marker=self.markers[name], linestyle=dash)

    def legend(self, picture: Figure, kinds: dict[str, Dash]) -> None:
        """Below the panels: what dashes mean, where there are several, then whose line is whose."""
        metrics = [Line2D([], [], color=style.INK, linestyle=dash) for dash in kinds.values()]
        lines = [Line2D([], [], color=self.colours[name], marker=self.markers[name]) for name in self.colours]
        columns = max(2, int(picture.get_size_inches()[0] / 1.75))
        picture.legend([*metrics, *lines], [*kinds, *self.colours], loc="outside lower center", ncols=columns)


def looks(names: Iterable[str]) -> Looks:
    """A colour and a marker for each name, in order."""
    every = list(dict.fromkeys(names))
    markers = {name: _MARKERS[place % len(_MARKERS)] for place, name in enumerate(every)}
    return Looks(style.colours(every, _PALETTE), markers)


def dashes(kinds: Sequence[str]) -> dict[str, Dash]:
    """How the lines of each kind are drawn."""
    return dict(zip(kinds, _DASHES, strict=False))


def percent_axis(axis: Axes) -> None:
    """From 0 to 100, with room for what lies at the ends."""
    axis.set_ylim(-5, 105)
