"""Drawing: from points to Vega-Lite specifications that take the page's width and colours.

Altair, because its charts are SVG that follow the page's colours and name their marks to screen readers, in a fifth of
the size of plotly's script.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

# Told apart by people with any colour vision, with a contrast of at least 3 on white and on near black.
_COLOURS = ("#3b7dd8", "#d1640f", "#1d9a6c", "#c2488b", "#8b6fd6", "#a8791a", "#2a93a8", "#7a7f87")
_PERCENT = (0.0, 100.0)
_HEIGHT = 260
# Two legends beside each other would be wider than a phone.
_ABOVE = alt.Legend(orient="top")
# Dashes are told apart by a stretch of line, which a dot does not show.
_DASHES = alt.Legend(orient="top", symbolType="stroke", symbolSize=500, symbolStrokeWidth=1.5)


class Axes(NamedTuple):
    """What a chart shows: headings of its scales.

    Attributes:
        x: Horizontal.
        y: Vertical, percent.
        colour: What the colour of a mark means.
        mark: What the shape of a mark or the dash of a line means.
    """

    x: str
    y: str
    colour: str
    mark: str


def scatter(points: pd.DataFrame, axes: Axes, colours: Sequence[str]) -> dict[str, Any]:
    """Points with their intervals.

    Args:
        points: Columns ``x``, ``y``, ``colour`` and ``mark``, and ``x_low``, ``x_high``, ``y_low``, ``y_high``.
        axes: What they mean.
        colours: All values of ``colour`` that any chart of the page has, so that each has one colour.
    """
    base, across = _base(points, axes, colours), alt.Scale(zero=False)
    x, y = alt.X("x:Q", title=axes.x, scale=across), alt.Y("y:Q", title=axes.y, scale=alt.Scale(domain=_PERCENT))
    marks = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x, y=y, shape=alt.Shape("mark:N", title=axes.mark, legend=_ABOVE)
    )
    rules = base.mark_rule(opacity=0.45)
    level = rules.encode(x=alt.X("x_low:Q", title=axes.x, scale=across), x2="x_high:Q", y=y)
    return _finished(alt.layer(level, rules.encode(x=x, y="y_low:Q", y2="y_high:Q"), marks), axes)


def lines(points: pd.DataFrame, axes: Axes, colours: Sequence[str]) -> dict[str, Any]:
    """Lines through the means over seeds, in a band that spans the intervals of all.

    Args:
        points: As for ``scatter``, without an interval of ``x``; several points at one place are seeds.
        axes: What they mean.
        colours: As for ``scatter``.
    """
    place = ["x", "colour", "mark"]
    means = points.groupby(place, as_index=False, sort=False).agg({"y": "mean", "y_low": "min", "y_high": "max"})
    base, scale = _base(means, axes, colours).encode(x=alt.X("x:Q", title=axes.x)), alt.Scale(domain=_PERCENT)
    band = base.mark_area(opacity=0.15).encode(
        y=alt.Y("y_low:Q", title=axes.y, scale=scale), y2="y_high:Q", detail="mark:N"
    )
    dash = alt.StrokeDash("mark:N", title=axes.mark, legend=_DASHES)
    line = base.mark_line(point=True).encode(y=alt.Y("y:Q", title=axes.y, scale=scale), strokeDash=dash)
    return _finished(alt.layer(band, line), axes)


def _base(points: pd.DataFrame, axes: Axes, colours: Sequence[str]) -> alt.Chart:
    """A chart of ``points`` whose marks tell their numbers when the pointer rests on them."""
    columns = ["x", "x_low", "x_high", "y", "y_low", "y_high", "colour", "mark"]
    palette = [_COLOURS[number % len(_COLOURS)] for number in range(len(colours))]
    colour = alt.Color(
        "colour:N",
        title=axes.colour,
        scale=alt.Scale(domain=list(colours), range=palette),
        legend=alt.Legend(values=[name for name in colours if name in set(points["colour"])]),
    )
    told = [alt.Tooltip(name, title=title) for name, title in axes._asdict().items()]
    return alt.Chart(points[[name for name in columns if name in points]]).encode(color=colour, tooltip=told)


def _finished(chart: alt.LayerChart | alt.FacetChart, axes: Axes) -> dict[str, Any]:
    """The specification, with a description for screen readers."""
    plain: dict[str, Any] = {"labelColor": "currentColor", "titleColor": "currentColor", "titleFontWeight": "normal"}
    described = f"{axes.y} against {axes.x}, by {axes.colour} and {axes.mark}; the boards hold the numbers"
    return (
        chart.properties(width="container", height=_HEIGHT, description=described)
        .configure(background="transparent", font="inherit")
        .configure_view(stroke=None)
        .configure_axis(
            **plain, domain=False, tickColor="transparent", tickCount=5, gridColor="currentColor", gridOpacity=0.12
        )
        .configure_legend(
            **plain,
            orient="bottom",
            columns=3,
            symbolOpacity=1,
            symbolBaseFillColor="currentColor",
            symbolBaseStrokeColor="currentColor",
        )
        .to_dict()
    )
