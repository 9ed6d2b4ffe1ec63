"""Attack success, robust and clean accuracy against one setting of a defense: shots, weight, depth, ...

RVPT's figure 3, NAP-Tuning's figures 4 to 7, CBA-FAPT's figure 3, R-Adapt's figure 7 and tables 7 and 8. Read from
``cells.csv``; the place on the axis is the defense's option in the suite, ``shots`` the number of training images of
each class. One panel for each setting, one colour for each checkpoint or named line; CA is dashed, ASR and robust
accuracy are not, and several attacks have other strokes. Bands are the 95 % intervals (Wilson); over several seeds the
line is the mean and the band spans the intervals of all. A cross stands where a cell has no value.
"""

from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Literal, Self

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import Field, model_validator

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.subjects.readings import over_seeds, readings, setting
from bench.analyses.subjects.references import CellReference
from bench.config import Options as Closed

Stroke = Literal["-", "--", "-.", ":"]
_METRICS = ("ASR", "CA", "RA")
_STROKES: tuple[Stroke, ...] = ("-", "-.", ":")


class Panel(CellReference):
    """One panel.

    Attributes:
        defenses: Ids that differ in one option, in any order; one line for each checkpoint.
        lines: Instead of these, such ids by the name of their line; on one checkpoint.
        option: Which option.
        counted_from: Show this number minus the option: RVPT's ``depth`` counts the blocks without prompts, its figure
            those with prompts.
        logarithmic: Whether the axis is.
    """

    defenses: tuple[str, ...] = ()
    lines: dict[str, tuple[str, ...]] = Field(default_factory=dict[str, tuple[str, ...]])
    option: str
    counted_from: float | None = None
    logarithmic: bool = False

    @model_validator(mode="after")
    def _has_lines(self) -> Self:
        if bool(self.defenses) == bool(self.lines):
            raise ValueError("name the defenses of each line under 'lines', or under 'defenses' if there is one")
        if min(map(len, self.named_lines.values())) < 2:
            raise ValueError("a line needs two defenses at least")
        return self

    @property
    def named_lines(self) -> dict[str, tuple[str, ...]]:
        """The defenses of each line; without a name where lines are told apart by their checkpoint."""
        return self.lines or {"": self.defenses}

    def named_defenses(self) -> Iterator[str]:
        """Those of all lines."""
        for defenses in self.named_lines.values():
            yield from defenses


class Options(Closed):
    """What to draw.

    Attributes:
        panels: By the label of the horizontal axis.
    """

    panels: dict[str, Panel] = Field(min_length=1)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each panel and cell; ``x`` is the setting, ``line`` the curve, ``kind`` what it shows."""
    return pd.concat(
        [
            _measure(source, name, panel, line, defenses)
            for name, panel in options.panels.items()
            for line, defenses in panel.named_lines.items()
        ]
    )


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """The panels, three beside each other."""
    rows, columns = style.grid_of(len(options.panels), 3)
    picture = style.figure(0.4 + 2.5 * columns, 0.5 + 2.3 * rows)
    colour, mark = style.colours(frame["line"]), style.markers(frame["line"])
    axes = style.panels(picture, rows, columns, len(options.panels), sharey=True)
    strokes = _strokes(frame["kind"].unique())
    for letter, axis, (name, panel) in zip("abcdefghijklmnopqrstuvwxyz", axes, options.panels.items(), strict=False):
        found = frame[frame["panel"] == name]
        means = over_seeds(found, ["line", "kind", "x"]).sort_values("x")
        for line in found["line"].unique():
            for kind, stroke in strokes.items():
                points = means[(means["line"] == line) & (means["kind"] == kind)]
                _draw_line(axis, points, colour[line], mark[line], stroke)
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
    picture.legend([*metrics, *lines], [*strokes, *colour], loc="outside lower center", ncols=3 * columns - 1)
    return picture


def _measure(source: Source, name: str, panel: Panel, line: str, defenses: tuple[str, ...]) -> pd.DataFrame:
    key = f"options.panels.{name}"
    found = readings(source, panel, defenses, _METRICS, key)
    places = {defense: setting(source, panel.track, defense, panel.option, f"{key}.option") for defense in defenses}
    if panel.counted_from is not None:
        places = {defense: panel.counted_from - place for defense, place in places.items()}
    found.insert(0, "panel", name)
    found.insert(1, "line", line or found["checkpoint"])
    found.insert(2, "x", found["defense"].map(places))
    attacked = found["threat_model"] != "none"
    found.insert(3, "kind", found["metric"].where(~attacked, found["metric"] + ", " + found["attack"]))
    return found


def _strokes(kinds: Iterable[str]) -> dict[str, Stroke]:
    """How each kind of line is drawn: clean accuracy always alike, the others in turn."""
    others = cycle(_STROKES)
    return {kind: "--" if kind == "CA" else next(others) for kind in sorted(kinds)}


def _draw_line(axis: Axes, line: pd.DataFrame, colour: str, marker: str, dash: Stroke) -> None:
    axis.fill_between(line["x"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
    axis.plot(line["x"], line["value"], color=colour, marker=marker, linestyle=dash)
    lost = line[line["value"].isna()]
    axis.plot(lost["x"], [0] * len(lost), color=colour, marker="x", linestyle="", markersize=7)
