"""How well CleanSight's distance tells triggered questions from clean ones, layer by layer (CleanSight, its figures).

The paper finds its detection layers in the middle of the decoder. Here each layer is calibrated alone, on the questions
that the defense is calibrated on, and again the range of layers that it watches. AUROC is over clean and triggered test
questions: 50 % is a guess, below that attacks are more like calibration questions than clean test questions are. Bands
are 95 % intervals (bootstrap over questions).
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pydantic import Field

from bench.analyses.contract import Source
from bench.analyses.drawing import lines, style
from bench.analyses.subjects.cleansight import GuardedReference, auroc, calibration, ratios, settings_of
from bench.analyses.subjects.lvlms import Large, Questioned, open_larges, open_questions
from bench.analyses.subjects.references import ImageReference
from bench.config import Options as Closed
from bench.defenses import cleansight
from bench.lvlm.questions import Questions

_ALONE, _RANGE = "layer", "range"


class Panel(ImageReference):
    """Questions, and models that are asked them.

    Attributes:
        models: By the name of their line.
    """

    models: dict[str, GuardedReference] = Field(min_length=1)


class Options(Closed):
    """What to draw.

    Attributes:
        panels: By their heading.
        resamples: Bootstrap samples for the intervals.
    """

    panels: dict[str, Panel] = Field(min_length=1)
    resamples: int = Field(default=200, gt=0)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each panel, model and layer ``x``, and one for the range of layers ``first`` to ``last``."""
    found = list[dict[str, Any]]()
    for heading, panel in options.panels.items():
        sample = open_questions(source, panel)
        for large, reference in zip(open_larges(source, panel.models), panel.models.values(), strict=True):
            questions = calibration(source, reference, large.parts)
            for one in areas(large, questions, sample, options.resamples):
                found.append({"panel": heading, "line": large.name, **one, "questions": len(sample.places)})
    return pd.DataFrame(found)


def areas(large: Large, questions: Questions, sample: Questioned, resamples: int) -> Iterator[dict[str, Any]]:
    """AUROC of each layer alone, and of the layers that the defense watches.

    Args:
        large: CleanSight on a backdoored model.
        questions: What it is calibrated on.
        sample: What it is tested on.
        resamples: Bootstrap samples.
    """
    options, depth = settings_of(large.parts), len(large.victim.lvlm.layers)
    # Half a layer before the end, so that rounding takes all of them.
    everything = options.model_copy(update={"first": 0.0, "last": (depth - 0.5) / depth})
    fitted = cleansight.fit(large.victim, questions, everything)
    rule = cleansight.Rule(everything, depth)
    measured = [ratios(large.victim, rule, sample, trigger) for trigger in (None, large.trigger)]
    watched = cleansight.detection_layers(options, depth)
    for kind, layers in [*((_ALONE, range(one, one + 1)) for one in range(depth)), (_RANGE, watched)]:
        heads = measured[0].shape[1] // depth
        own = slice(layers[0] * heads, (layers[-1] + 1) * heads)
        with torch.no_grad():
            clean, triggered = (
                cleansight.whitened(every[:, own], fitted["mean"][own], fitted["deviation"][own]).double().cpu().numpy()
                for every in measured
            )
        found = auroc(clean, triggered, resamples, sample.seed)
        yield {"kind": kind, "x": layers[0], "first": layers[0], "last": layers[-1], **found._asdict()}


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """AUROC by layer, one panel beside the other; the layers that the defense watches are shaded."""
    del options
    headings = list(frame["panel"].unique())
    rows, columns = style.grid_of(len(headings), 3)
    picture = style.figure(1.2 + 3.6 * columns, 0.8 + 2.8 * rows)
    looks = lines.looks(frame["line"])
    axes = style.panels(picture, rows, columns, len(headings), sharey=True)
    for axis, heading in zip(axes, headings, strict=True):
        shown = frame[frame["panel"] == heading]
        _draw_panel(axis, shown, looks)
        axis.set_title(heading)
        axis.set_xlabel("decoder layer")
    for axis in axes[::columns]:
        axis.set_ylabel("AUROC (%)")
    looks.legend(picture, {})
    return picture


def _draw_panel(axis: Axes, shown: pd.DataFrame, looks: lines.Looks) -> None:
    """The layers, and beyond them the AUROC of the whole range."""
    alone, together = shown[shown["kind"] == _ALONE], shown[shown["kind"] == _RANGE]
    names, last = list(shown["line"].unique()), int(alone["x"].max())
    step = 0.04 * (last + 1)
    axis.axhline(50, color="#8C8C8C", linewidth=1, linestyle=":")
    axis.axvspan(together["first"].min() - 0.4, together["last"].max() + 0.4, color=style.GRID, alpha=0.6, linewidth=0)
    for place, name in enumerate(names):
        looks.draw(axis, alone[alone["line"] == name].sort_values("x"), name)
        # Beside each other, for most of them are alike.
        x, (one,) = last + step * (place + 3), together[together["line"] == name].to_dict("records")
        bounds = [[one["value"] - one["low"]], [one["high"] - one["value"]]]
        axis.errorbar(
            [x], [one["value"]], bounds, color=looks.colours[name], marker=looks.markers[name], elinewidth=0.9
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    ticks = [tick for tick in axis.get_xticks() if 0 <= tick <= last]
    axis.set_xticks([*ticks, last + step * (3 + (len(names) - 1) / 2)], [*(f"{tick:g}" for tick in ticks), "range"])
    axis.set_xlim(-0.5, last + step * (len(names) + 3))
    lines.percent_axis(axis)
