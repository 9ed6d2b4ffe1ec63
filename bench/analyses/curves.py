"""ASR, CA and robust accuracy against one setting of a defense (RVPT, figure 3; R-Adapt, figure 7, tables 7 and 8).

Read from ``cells.csv``; the place on the axis is the defense's option in the suite, ``shots`` the number of training
images of each class. One panel for each setting, one colour for each checkpoint; CA is dashed, ASR and robust accuracy
are not, and several attacks have other strokes. Bands are the 95 % intervals (Wilson); over several seeds the line is
the mean and the band spans the intervals of all. A cross stands where a cell has no value.
"""

from collections.abc import Iterable
from itertools import cycle
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import Field

from bench.analyses import style
from bench.analyses.contract import Source
from bench.analyses.readings import over_seeds, readings, setting
from bench.analyses.references import CellReference
from bench.config import Options as Closed

Stroke = Literal["-", "--", "-.", ":"]
_METRICS = ("ASR", "CA", "RA")
_STROKES: tuple[Stroke, ...] = ("-", "-.", ":")


class Panel(CellReference):
    """One panel.

    Attributes:
        defenses: Ids that differ in one option, in any order.
        option: Which option.
        counted_from: Show this number minus the option: RVPT's ``depth`` counts the blocks without prompts, its figure
            those with prompts.
        logarithmic: Whether the axis is.
    """

    defenses: tuple[str, ...] = Field(min_length=2)
    option: str
    counted_from: float | None = None
    logarithmic: bool = False

    def named_defenses(self) -> tuple[str, ...]:
        """Those of the curve."""
        return self.defenses


class Options(Closed):
    """What to draw.

    Attributes:
        panels: By the label of the horizontal axis.
    """

    panels: dict[str, Panel] = Field(min_length=1)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each panel and cell; ``x`` is the setting."""
    return pd.concat([_measure(source, name, panel) for name, panel in options.panels.items()])


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """The panels, three beside each other."""
    rows, columns = style.grid_of(len(options.panels), 3)
    picture = style.figure(0.4 + 2.5 * columns, 0.5 + 2.3 * rows)
    colour, mark = style.colours(frame["checkpoint"]), style.markers(frame["checkpoint"])
    axes = style.panels(picture, rows, columns, len(options.panels), sharey=True)
    strokes = _strokes(frame["line"].unique())
    for letter, axis, (name, panel) in zip("abcdefghijklmnopqrstuvwxyz", axes, options.panels.items(), strict=False):
        found = frame[frame["panel"] == name]
        means = over_seeds(found, ["checkpoint", "line", "x"]).sort_values("x")
        for checkpoint in found["checkpoint"].unique():
            for kind, stroke in strokes.items():
                line = means[(means["checkpoint"] == checkpoint) & (means["line"] == kind)]
                _draw_line(axis, line, colour[checkpoint], mark[checkpoint], stroke)
        axis.set_title(f"({letter})")
        axis.set_xlabel(name)
        axis.set_ylim(-3, 103)
        if panel.logarithmic:
            axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(found["x"].unique()), [f"{x:g}" for x in sorted(found["x"].unique())])
        axis.minorticks_off()
    for axis in axes[::columns]:
        axis.set_ylabel("percent")
    metrics = [Line2D([], [], color=style.INK, linestyle=stroke) for stroke in strokes.values()]
    lines = [Line2D([], [], color=colour[name], marker=mark[name]) for name in colour]
    picture.legend([*metrics, *lines], [*strokes, *colour], loc="outside lower center", ncols=8)
    return picture


def _measure(source: Source, name: str, panel: Panel) -> pd.DataFrame:
    key = f"options.panels.{name}"
    found = readings(source, panel, panel.defenses, _METRICS, key)
    places = {
        defense: setting(source, panel.track, defense, panel.option, f"{key}.option") for defense in panel.defenses
    }
    if panel.counted_from is not None:
        places = {defense: panel.counted_from - place for defense, place in places.items()}
    found.insert(0, "panel", name)
    found.insert(1, "x", found["defense"].map(places))
    attacked = found["threat_model"] != "none"
    found.insert(2, "line", found["metric"].where(~attacked, found["metric"] + ", " + found["attack"]))
    return found


def _strokes(lines: Iterable[str]) -> dict[str, Stroke]:
    """How each line is drawn: clean accuracy always alike, the others in turn."""
    others = cycle(_STROKES)
    return {line: "--" if line == "CA" else next(others) for line in sorted(lines)}


def _draw_line(axis: Axes, line: pd.DataFrame, colour: str, marker: str, dash: Stroke) -> None:
    axis.fill_between(line["x"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
    axis.plot(line["x"], line["value"], color=colour, marker=marker, linestyle=dash)
    lost = line[line["value"].isna()]
    axis.plot(lost["x"], [0] * len(lost), color=colour, marker="x", linestyle="", markersize=7)
