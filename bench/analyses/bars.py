"""Defenses side by side in-dataset, with an open vocabulary, across datasets and across domains (RVPT, figure 4).

Read from ``cells.csv``: one panel for each checkpoint, one group of bars for each scenario. Whiskers are 95 % intervals
(Wilson); over several seeds the bar is the mean and the whisker spans the intervals of all. A cross stands where a cell
has no value.
"""

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.subjects.readings import over_seeds, readings
from bench.analyses.subjects.references import CellReference
from bench.config import Metric
from bench.config import Options as Closed


class Scenario(CellReference):
    """One group of bars.

    Attributes:
        defenses: Id of the defense by the name of its bar; the same names in every scenario.
    """

    defenses: dict[str, str] = Field(min_length=1)

    def named_defenses(self) -> Iterable[str]:
        """Those of the bars."""
        return self.defenses.values()


class Options(Closed):
    """What to draw.

    Attributes:
        scenarios: By the label of the group.
        metric: What the bars show.
        names: How checkpoints are written; those of the same name share a panel.
    """

    scenarios: dict[str, Scenario] = Field(min_length=1)
    metric: Metric = "ASR"
    names: dict[str, str] = Field(default_factory=dict[str, str])


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each scenario and cell; ``bar`` names the bar, ``panel`` the panel."""
    frames = list[pd.DataFrame]()
    for name, scenario in options.scenarios.items():
        bars = {defense: bar for bar, defense in scenario.defenses.items()}
        found = readings(source, scenario, bars, [options.metric], f"options.scenarios.{name}")
        found.insert(0, "scenario", name)
        found.insert(1, "bar", found["defense"].map(bars))
        found.insert(2, "panel", found["checkpoint"].replace(options.names))
        frames.append(found)
    return pd.concat(frames)


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """The bars, one panel for each name of checkpoints."""
    checkpoints, scenarios = list(frame["panel"].unique()), list(options.scenarios)
    names = list(dict.fromkeys(bar for scenario in options.scenarios.values() for bar in scenario.defenses))
    rows, columns = style.grid_of(len(checkpoints), 2)
    picture = style.figure(0.5 + columns * (0.6 + 0.9 * len(scenarios)), 0.5 + 2.3 * rows)
    means = over_seeds(frame, ["panel", "scenario", "bar"])
    axes = style.panels(picture, rows, columns, len(checkpoints), sharey=True)
    for axis, checkpoint in zip(axes, checkpoints, strict=True):
        found = means[means["panel"] == checkpoint].set_index(["bar", "scenario"])
        for place, (bar, colour) in enumerate(style.colours(names).items()):
            shift = (place - (len(names) - 1) / 2) * 0.8 / len(names)
            _draw_bars(axis, found, bar, scenarios, shift, 0.8 / len(names), colour)
        axis.set_title(checkpoint)
        axis.set_xticks(range(len(scenarios)), scenarios)
        axis.grid(axis="x", visible=False)
        axis.set_ylim(0, 105)
    for axis in axes[::columns]:
        axis.set_ylabel(f"{options.metric} (%)")
    picture.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return picture


def _draw_bars(
    axis: Axes, found: pd.DataFrame, bar: str, scenarios: list[str], shift: float, width: float, colour: str
) -> None:
    """The bars of one defense, with their values; a cross where a scenario has no value."""
    shown = found.reindex([(bar, scenario) for scenario in scenarios])
    places = [place + shift for place in range(len(scenarios))]
    axis.bar(places, shown["value"], width * 0.92, color=colour, label=bar)
    whiskers = [(shown["value"] - shown["low"]).to_numpy(), (shown["high"] - shown["value"]).to_numpy()]
    axis.errorbar(places, shown["value"], whiskers, fmt="none", ecolor=style.INK, elinewidth=0.9, capsize=2)
    for place, value, high in zip(places, shown["value"], shown["high"], strict=True):
        told = "x" if pd.isna(value) else f"{value:.0f}"
        axis.annotate(
            told, (place, 0 if pd.isna(high) else high), (0, 2), textcoords="offset points", ha="center", size=8
        )
