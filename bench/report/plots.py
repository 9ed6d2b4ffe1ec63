"""The plots of the report: which charts there are, from ``cells.csv`` and from the CSV of analyses."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from bench.config import Suite
from bench.leaderboard.worst import WORST
from bench.report.charts import Axes, lines, scatter

_SCENE = ["track", "dataset", "split"]
_MODEL = [*_SCENE, "defense", "checkpoint", "seed"]
_CURVES = {"panel", "x", "line", "kind", "value", "low", "high"}
_TEXT = dict.fromkeys(("panel", "checkpoint", "defense", "line", "kind"), "str")
_RESISTIVITY = {"panel", "checkpoint", "defense", "pr", "pr_low", "pr_high", "asr", "asr_low", "asr_high"}
# Attacks whose ids differ in the number at the end alone are one attack at several eps.
_EPS = re.compile(r"_?(eps)?_?\d+$")


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
            list(_trade_offs(done, "ASR", "checkpoint", defenses)),
        ),
        PlotGroup(
            "Clean against robust accuracy",
            "A good defense is at the upper right. Judge it by its lowest point.",
            list(_trade_offs(done, "RA", "attack", defenses)),
        ),
        PlotGroup(
            "Robust accuracy against eps",
            "Lines start at clean accuracy. Bands are the 95 % intervals.",
            list(_by_eps(done, suite, defenses)),
        ),
    ]
    return [group for group in groups if group.plots]


def analysis_group(title: str, path: Path) -> PlotGroup | None:
    """The charts of an analysis, from its CSV; None if its columns are neither those of curves nor of PR against ASR.

    Args:
        title: Heading.
        path: Its CSV.
    """
    columns = set(pd.read_csv(path, nrows=0).columns)
    if columns >= _CURVES:
        return PlotGroup(title, "Bands are the 95 % intervals.", list(_ablations(_read(path))))
    if columns >= _RESISTIVITY:
        reading = "Perturbation resistivity (PR) against attack success; one point for each defense and checkpoint."
        return PlotGroup(title, reading, list(_resistivities(_read(path))))
    return None


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=_TEXT)


def _trade_offs(done: pd.DataFrame, metric: Literal["ASR", "RA"], mark: str, defenses: list[str]) -> Iterator[Plot]:
    """One chart for each dataset, a point for each model: clean accuracy against ``metric``."""
    clean = done[done["metric"].isin(("CA", "CU"))][[*_MODEL, "value", "low", "high"]]
    clean = clean.rename(columns={"value": "x", "low": "x_low", "high": "x_high"})
    points = _points(done[done["metric"] == metric]).merge(clean, on=_MODEL).assign(colour=lambda both: both["defense"])
    points["mark"] = points[mark].replace(WORST, "worst case")
    title = {"ASR": "attack success rate (%)", "RA": "robust accuracy (%)"}[metric]
    axes = Axes("clean accuracy (%)", title, "defense", mark)
    for (track, dataset, split), shown in points.groupby(_SCENE, sort=False):
        yield Plot(f"{dataset}, {split} ({track})", scatter(shown, axes, defenses))


def _by_eps(done: pd.DataFrame, suite: Suite, defenses: list[str]) -> Iterator[Plot]:
    """One chart for each dataset and attack that is run at several eps; clean accuracy stands at eps 0."""
    bounds = {name: spec.options.get("eps") for name, spec in suite.attacks.items()}
    robust = done[done["metric"] == "RA"].assign(x=lambda cells: cells["attack"].map(bounds)).dropna(subset="x")
    robust["family"] = [_EPS.sub("", attack) for attack in robust["attack"]]
    axes = Axes("eps (/255)", "robust accuracy (%)", "defense", "checkpoint")
    for (track, dataset, split, family), shown in robust.groupby([*_SCENE, "family"], sort=False):
        if shown["x"].nunique() > 1:
            clean = done[done["metric"] == "CA"].merge(shown[_SCENE].drop_duplicates()).assign(x=0.0)
            points = _points(pd.concat([clean, shown])).rename(columns={"defense": "colour", "checkpoint": "mark"})
            yield Plot(f"{family} on {dataset}, {split} ({track})", lines(points, axes, defenses))


def _ablations(numbers: pd.DataFrame) -> Iterator[Plot]:
    points = _points(numbers).rename(columns={"line": "colour", "kind": "mark"})
    for panel, shown in points.groupby("panel", sort=False):
        axes = Axes(str(panel), "percent", "line", "shows")
        yield Plot(str(panel), lines(shown, axes, list(dict.fromkeys(points["colour"]))))


def _resistivities(numbers: pd.DataFrame) -> Iterator[Plot]:
    columns = {"checkpoint": "colour", "defense": "mark"}
    for start, end in (("pr", "x"), ("asr", "y")):
        columns |= {start: end, f"{start}_low": f"{end}_low", f"{start}_high": f"{end}_high"}
    points = numbers.rename(columns=columns)
    axes = Axes("PR", "attack success rate (%)", "checkpoint", "defense")
    for panel, shown in points.groupby("panel", sort=False):
        yield Plot(str(panel), scatter(shown, axes, list(dict.fromkeys(points["colour"]))))


def _points(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.rename(columns={"value": "y", "low": "y_low", "high": "y_high"})
