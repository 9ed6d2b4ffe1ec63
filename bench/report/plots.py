"""The plots of the report, as Vega-Lite specifications: drawn from ``cells.csv`` and from the CSV of analyses.

Altair, because its charts are SVG that follow the page's colours and name their marks to screen readers, in a fifth of
the size of plotly's script.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from bench.config import Suite
from bench.leaderboard.worst import WORST

# Told apart by people with any colour vision, with a contrast of at least 3 on white and on near black.
_COLOURS = ("#3b7dd8", "#d1640f", "#1d9a6c", "#c2488b", "#8b6fd6", "#a8791a", "#2a93a8", "#7a7f87")
_PERCENT = (0.0, 100.0)
_HEIGHT = 260
# Two legends beside each other would be wider than a phone.
_ABOVE = alt.Legend(orient="top")
_PLACE = ["track", "defense", "checkpoint", "dataset", "split", "seed"]
_CURVES = {"panel", "x", "checkpoint", "metric", "value", "low", "high"}
_RESISTIVITY = {"panel", "checkpoint", "defense", "pr", "pr_low", "pr_high", "asr", "asr_low", "asr_high"}


class Plot(NamedTuple):
    """One chart.

    Attributes:
        title: Heading of the chart.
        spec: Its Vega-Lite specification.
    """

    title: str
    spec: dict[str, Any]


class PlotGroup(NamedTuple):
    """Charts that show the same of different data.

    Attributes:
        title: Heading.
        reading: How to read them.
        plots: The charts.
    """

    title: str
    reading: str
    plots: list[Plot]


def plot_groups(cells: pd.DataFrame, suite: Suite) -> list[PlotGroup]:
    """What the cells of a suite show in charts; groups without data are left out.

    Args:
        cells: From ``read_cells``.
        suite: The benchmark, for the attacks' eps.
    """
    done = cells[(cells["state"] == "done") & cells["value"].notna()]
    defenses = list(dict.fromkeys(cells["defense"]))
    groups = [
        PlotGroup(
            "Clean accuracy against attack success",
            "A good defense is at the lower right: it keeps accuracy and stops the backdoor.",
            list(_trade_offs(done, "ASR", "checkpoint", "attack success rate (%)", defenses)),
        ),
        PlotGroup(
            "Clean against robust accuracy",
            "A good defense is at the upper right. Judge it by its lowest point.",
            list(_trade_offs(done, "RA", "attack", "robust accuracy (%)", defenses)),
        ),
        PlotGroup(
            "Robust accuracy against eps",
            "One line for each defense; attacks that differ in the number that ends their id form a line.",
            list(_by_eps(done, suite, defenses)),
        ),
    ]
    return [group for group in groups if group.plots]


def analysis_group(name: str, path: Path) -> PlotGroup | None:
    """The charts of an analysis, from its CSV; None if its columns are neither those of curves nor of PR against ASR.

    Args:
        name: Heading.
        path: Its CSV.
    """
    columns = set(pd.read_csv(path, nrows=0).columns)
    if columns >= _CURVES:
        return PlotGroup(name, "Bands are the 95 % intervals.", list(_ablations(_read(path))))
    if columns >= _RESISTIVITY:
        reading = "Perturbation resistivity (PR) against attack success; one point for each defense and checkpoint."
        return PlotGroup(name, reading, list(_resistivities(_read(path))))
    return None


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"panel": "str", "checkpoint": "str"})


def _trade_offs(done: pd.DataFrame, metric: str, shape: str, title: str, defenses: list[str]) -> Iterator[Plot]:
    """One chart for each dataset, a point for each model: clean accuracy against ``metric``."""
    clean = done[done["metric"] == "CA"][[*_PLACE, "value", "low", "high"]]
    both = done[done["metric"] == metric].merge(clean, on=_PLACE, suffixes=("", "_clean"))
    points = both.rename(columns={"value": "y", "low": "y_low", "high": "y_high", shape: "mark"})
    points["mark"] = points["mark"].replace(WORST, "worst case")
    points = points.rename(columns={"value_clean": "x", "low_clean": "x_low", "high_clean": "x_high"})
    for (track, dataset, split), shown in points.groupby(["track", "dataset", "split"], sort=False):
        axes = {"x": "clean accuracy (%)", "y": title, "mark": shape, "colour": "defense"}
        chart = _scatter(shown.rename(columns={"defense": "colour"}), axes, defenses)
        yield Plot(f"{dataset}, {split} ({track})", _spec(chart, f"{axes['x']} against {title} on {dataset}"))


def _by_eps(done: pd.DataFrame, suite: Suite, defenses: list[str]) -> Iterator[Plot]:
    """One chart for each dataset and family of attacks; clean accuracy stands at eps 0."""
    bounds = {name: spec.options.get("eps") for name, spec in suite.attacks.items()}
    robust = done[done["metric"] == "RA"].assign(x=done["attack"].map(bounds)).dropna(subset="x")
    robust = robust.assign(family=robust["attack"].map(lambda name: re.sub(r"_?(eps)?_?\d+$", "", name)))
    for (track, dataset, split, family), shown in robust.groupby(["track", "dataset", "split", "family"], sort=False):
        if shown["x"].nunique() < 2:
            continue
        clean = done[
            (done["metric"] == "CA") & (done[["track", "dataset", "split"]] == (track, dataset, split)).all(axis=1)
        ]
        points = pd.concat([shown, clean.assign(x=0.0)])
        points = points.rename(columns={"value": "y", "low": "y_low", "high": "y_high", "defense": "colour"})
        axes = {"x": "eps (/255)", "y": "robust accuracy (%)", "mark": "checkpoint", "colour": "defense"}
        chart = _lines(points.rename(columns={"checkpoint": "mark"}), axes, defenses)
        yield Plot(
            f"{family} on {dataset}, {split} ({track})", _spec(chart, f"robust accuracy under {family} against eps")
        )


def _ablations(numbers: pd.DataFrame) -> Iterator[Plot]:
    checkpoints = list(dict.fromkeys(numbers["checkpoint"]))
    columns = {"value": "y", "low": "y_low", "high": "y_high", "checkpoint": "colour", "metric": "mark"}
    for panel, shown in numbers.groupby("panel", sort=False):
        axes = {"x": str(panel), "y": "percent", "mark": "metric", "colour": "checkpoint"}
        yield Plot(
            str(panel), _spec(_lines(shown.rename(columns=columns), axes, checkpoints), f"ASR and CA against {panel}")
        )


def _resistivities(numbers: pd.DataFrame) -> Iterator[Plot]:
    checkpoints = list(dict.fromkeys(numbers["checkpoint"]))
    columns = {"checkpoint": "colour", "defense": "mark"}
    for start, end in (("pr", "x"), ("asr", "y")):
        columns |= {start: end, f"{start}_low": f"{end}_low", f"{start}_high": f"{end}_high"}
    for panel, shown in numbers.groupby("panel", sort=False):
        axes = {"x": "PR", "y": "attack success rate (%)", "mark": "defense", "colour": "checkpoint"}
        chart = _scatter(shown.rename(columns=columns), axes, checkpoints)
        yield Plot(str(panel), _spec(chart, f"PR against ASR, {panel}"))


def _scatter(points: pd.DataFrame, axes: dict[str, str], colours: list[str]) -> alt.LayerChart:
    """Points at ``x`` and ``y`` with their intervals."""
    base, scale = _base(points, axes, colours), alt.Scale(zero=False)
    x = alt.X("x:Q", title=axes["x"], scale=scale)
    y = alt.Y("y:Q", title=axes["y"], scale=alt.Scale(domain=_PERCENT))
    across = base.mark_rule(opacity=0.45).encode(x=alt.X("x_low:Q", title=axes["x"], scale=scale), x2="x_high:Q", y=y)
    upright = base.mark_rule(opacity=0.45).encode(x=x, y="y_low:Q", y2="y_high:Q")
    marks = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x, y=y, shape=alt.Shape("mark:N", title=axes["mark"], legend=_ABOVE)
    )
    return alt.layer(across, upright, marks)


def _lines(points: pd.DataFrame, axes: dict[str, str], colours: list[str]) -> alt.LayerChart:
    """Lines through the means over seeds, with the band that all intervals span."""
    base = _base(points, axes, colours)
    x, title = alt.X("x:Q", title=axes["x"]), axes["y"]
    scale = alt.Scale(domain=_PERCENT)
    band = base.mark_area(opacity=0.15).encode(
        x=x, y=alt.Y("min(y_low):Q", title=title, scale=scale), y2="max(y_high):Q", detail="mark:N"
    )
    dash = alt.StrokeDash("mark:N", title=axes["mark"], legend=_ABOVE)
    line = base.mark_line(point=True).encode(x=x, y=alt.Y("mean(y):Q", title=title, scale=scale), strokeDash=dash)
    return alt.layer(band, line)


def _base(points: pd.DataFrame, axes: dict[str, str], colours: list[str]) -> alt.Chart:
    """A chart of ``points`` whose colours mean the same in all charts, and whose marks tell their numbers on hover."""
    kept = [
        name
        for name in points
        if name in {"x", "y", "x_low", "x_high", "y_low", "y_high", "mark", "colour", "attack", "seed"}
    ]
    palette = [_COLOURS[number % len(_COLOURS)] for number in range(len(colours))]
    # A point is named in full when the pointer rests on it, for colours repeat where there are many.
    shown = [alt.Tooltip(name, title=axes.get(name, name)) for name in kept if not name.endswith(("low", "high"))]
    present = [name for name in colours if name in set(points["colour"])]
    colour = alt.Color(
        "colour:N",
        title=axes["colour"],
        scale=alt.Scale(domain=colours, range=palette),
        legend=alt.Legend(values=present),
    )
    return alt.Chart(points[kept]).encode(color=colour, tooltip=shown)


def _spec(chart: alt.LayerChart, description: str) -> dict[str, Any]:
    """The specification: as wide as the page allows, in the page's own colours."""
    plain = {"labelColor": "currentColor", "titleColor": "currentColor", "titleFontWeight": "normal"}
    sized = chart.properties(width="container", height=_HEIGHT, description=description)
    return (
        sized.configure(background="transparent", font="inherit")
        .configure_view(stroke=None)
        .configure_axis(
            **plain, domain=False, tickColor="transparent", tickCount=5, gridColor="currentColor", gridOpacity=0.12
        )
        .configure_legend(
            **plain,
            orient="bottom",
            columns=3,
            symbolBaseFillColor="currentColor",
            symbolBaseStrokeColor="currentColor",
        )
        .to_dict()
    )
