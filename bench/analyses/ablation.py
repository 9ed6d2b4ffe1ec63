"""CleanSight's settings, one at a time: attack success, clean utility, AUROC and false alarms (CleanSight's ablations).

Each value is calibrated and tested anew, with all other settings as the suite has them. False alarms are the clean test
questions that are flagged, AUROC is that of the distances of clean and triggered ones. The CSV has 95 % intervals
(Wilson, for AUROC a bootstrap's over questions), which are drawn where there is one model.
"""

from collections.abc import Iterator
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field

from bench.analyses.contract import Source
from bench.analyses.drawing import lines, style
from bench.analyses.subjects.cleansight import GuardedReference, auroc, calibration, settings_of
from bench.analyses.subjects.lvlms import Large, Questioned, Told, open_larges, open_questions, share
from bench.analyses.subjects.references import ImageReference
from bench.defenses import cleansight
from bench.evaluation.metrics import Count, wilson
from bench.lvlm.questions import Questions

_KINDS = ("ASR", "CU", "AUROC", "false alarms")


class Options(ImageReference):
    """Which questions, models and settings.

    Attributes:
        models: By the name of their line.
        settings: What is changed for each value, by the label of the panel and that of the value in it.
        resamples: Bootstrap samples for the intervals of AUROC.
    """

    models: dict[str, GuardedReference] = Field(min_length=1)
    settings: dict[str, dict[str, cleansight.Options]] = Field(min_length=1)
    resamples: int = Field(default=200, gt=0)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each model, panel, value ``condition`` at place ``x``, and ``kind`` of number."""
    sample, found = open_questions(source, options), list[dict[str, Any]]()
    for large, reference in zip(open_larges(source, options.models), options.models.values(), strict=True):
        questions, own = calibration(source, reference, large.parts), settings_of(large.parts)
        known = dict[cleansight.Options, list[dict[str, Any]]]()
        for panel, values in options.settings.items():
            for x, (label, change) in enumerate(values.items()):
                changed = {name: getattr(change, name) for name in change.model_fields_set}
                settings = own.model_copy(update=changed)
                if settings not in known:  # the suite's own values stand in every panel
                    known[settings] = list(numbers(large, questions, sample, settings, options.resamples))
                place = {"panel": panel, "line": large.name, "condition": label, "x": x, "own": settings == own}
                found += [place | one for one in known[settings]]
    return pd.DataFrame(found)


def numbers(
    large: Large, questions: Questions, sample: Questioned, settings: cleansight.Options, resamples: int
) -> Iterator[dict[str, Any]]:
    """What is measured of CleanSight with some settings.

    Args:
        large: The backdoored model.
        questions: What the defense is calibrated on.
        sample: What it is tested on.
        settings: Its options.
        resamples: Bootstrap samples.
    """
    fitted = cleansight.fit(large.victim, questions, settings)
    model = cleansight.load(fitted, large.victim, settings)
    clean, triggered = sample.told(model, large.target), sample.told(model, large.target, large.trigger)
    yield {"kind": "ASR", **share("ASR", triggered.predictions)}
    yield {"kind": "CU", **share("CU", clean.predictions)}
    area = auroc(np.array(clean.distances), np.array(triggered.distances), resamples, sample.seed)
    yield {"kind": "AUROC", **area._asdict()}
    yield {"kind": "false alarms", **_alarms(clean)}


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """One panel for each setting; a ring marks the suite's own value."""
    panels = list(options.settings)
    rows, columns = style.grid_of(len(panels), 2)
    picture = style.figure(0.6 + 3.9 * columns, 0.8 + 2.6 * rows)
    looks = lines.looks(frame["line"])
    axes = style.panels(picture, rows, columns, len(panels), sharey=True)
    for letter, axis, panel in zip(ascii_lowercase, axes, panels, strict=False):
        shown = frame[frame["panel"] == panel]
        _draw_panel(axis, shown, looks)
        axis.set_title(f"({letter})")
        axis.set_xlabel(panel)
    for axis in axes[::columns]:
        axis.set_ylabel("percent")
    looks.legend(picture, lines.dashes(_KINDS))
    return picture


def _draw_panel(axis: Axes, shown: pd.DataFrame, looks: lines.Looks) -> None:
    for (name, kind), points in shown.groupby(["line", "kind"], sort=False):
        # The bands of several models' four numbers hide each other.
        looks.draw(axis, points, str(name), lines.dashes(_KINDS)[str(kind)], band=len(looks.colours) == 1)
        own = points[points["own"]]
        colour = looks.colours[str(name)]
        axis.plot(own["x"], own["value"], color=colour, marker="o", linestyle="", markersize=9, fillstyle="none")
    labels = shown.drop_duplicates("x")
    axis.set_xticks(list(labels["x"]), list(labels["condition"]))
    axis.set_xlim(-0.3, labels["x"].max() + 0.3)
    lines.percent_axis(axis)


def _alarms(clean: Told) -> dict[str, float]:
    counted = Count(sum(clean.alarms), len(clean.alarms))
    return {"value": counted.percent, **wilson(counted)._asdict()}
