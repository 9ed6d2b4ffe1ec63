"""Perturbation Resistivity against attack success while a defense's setting varies (RVPT: supplement, figure 2).

The paper varies the prompted depth. PR is measured on test images; ASR is read from ``cells.csv``. A point stands for
one defense on one checkpoint; for each checkpoint the correlation of ranks (Spearman's rho) and the linear one
(Pearson's r) are told.
"""

from collections.abc import Iterable, Iterator
from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pydantic import Field
from tabulate import tabulate

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.formulas.similarity import cosines, resistivity
from bench.analyses.subjects.models import Features, open_models, open_sample
from bench.analyses.subjects.perturbations import Perturbation
from bench.analyses.subjects.readings import readings
from bench.analyses.subjects.references import CellReference, ImageReference, ModelReference, Need
from bench.config import Options as Closed
from bench.config import Suite


class Panel(Closed):
    """One panel.

    Attributes:
        perturbation: What is done to the images.
        instead: By checkpoint, another perturbation for its models: a model is not perturbed by its own trigger.
    """

    perturbation: Perturbation
    instead: dict[str, Perturbation] = Field(default_factory=dict[str, Perturbation])


class Options(CellReference):
    """Which models, on which images.

    Attributes:
        defenses: Ids of the defenses that stand for the points of each checkpoint.
        panels: By their heading.
        images: How many test images, taken from the classes in turn; all if not given.
        seed: Seed of the defenses' training, of the perturbations and of the bootstrap.
        features: What phi is: the image embedding, or the class token after the last LayerNorm.
        resamples: Bootstrap samples for the intervals of PR.
    """

    defenses: tuple[str, ...] = Field(min_length=2)
    panels: dict[str, Panel] = Field(min_length=1)
    images: int | None = Field(default=None, gt=0)
    seed: int = 1
    features: Features = "embedding"
    resamples: int = Field(default=1000, gt=0)

    def named_defenses(self) -> tuple[str, ...]:
        """Those of the points."""
        return self.defenses

    def needs(self, suite: Suite) -> Iterable[Need]:
        """Every defense on every checkpoint, for PR is measured here."""
        return (Need(one, self.track, defense) for one, defense in product(self.checkpoints_in(suite), self.defenses))


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each panel, checkpoint and defense: PR and ASR with their 95 % intervals."""
    cells = readings(source, options, options.defenses, ["ASR"], "options")
    # The control was not trained, so it has the cells of one seed only.
    cells = cells[(cells["seed"] == options.seed) | (cells["defense"] == source.suite.control)]
    rates = cells.rename(columns={"value": "asr", "low": "asr_low", "high": "asr_high"})
    rates = rates[["checkpoint", "defense", "state", "asr", "asr_low", "asr_high"]]
    measured = pd.DataFrame(list(_resistivities(source, options)))
    return measured.merge(rates, on=["checkpoint", "defense"], validate="many_to_one")


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """One scatter for each panel."""
    rows, columns = style.grid_of(len(options.panels), 3)
    picture = style.figure(0.5 + 2.9 * columns, 0.6 + 2.6 * rows)
    colour, mark = style.colours(frame["checkpoint"]), style.markers(frame["checkpoint"])
    axes = style.panels(picture, rows, columns, len(options.panels), sharey=True)
    for axis, name in zip(axes, options.panels, strict=True):
        shown = frame[frame["panel"] == name]
        for checkpoint, points in shown.groupby("checkpoint", sort=False):
            _draw_points(axis, points, str(checkpoint), colour[str(checkpoint)], mark[str(checkpoint)])
        axis.set_title(name)
        axis.set_xlabel("PR")
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_ylim(-3, 103)
        axis.legend(loc="best", handletextpad=0.2)
    for axis in axes[::columns]:
        axis.set_ylabel("ASR (%)")
    return picture


def table(frame: pd.DataFrame, options: Options) -> str:
    """The correlations."""
    lines = [
        [panel, checkpoint, len(points), *(f"{value:.2f}" for value in correlations(points))]
        for (panel, checkpoint), points in frame.groupby(["panel", "checkpoint"], sort=False)
    ]
    header = ["perturbation", "checkpoint", "models", "Spearman", "Pearson"]
    body = tabulate(lines, header, tablefmt="pipe", disable_numparse=True)
    return f"{body}\n\nCorrelation of PR with ASR over the defenses {', '.join(options.defenses)}."


def correlations(points: pd.DataFrame) -> tuple[float, float]:
    """Spearman's and Pearson's of PR and ASR; NaN where one of them does not vary, or for fewer than three points."""
    both = points[["pr", "asr"]].dropna()
    if len(both) < 3:
        return float("nan"), float("nan")
    return float(both.corr("spearman").to_numpy()[0, 1]), float(both.corr("pearson").to_numpy()[0, 1])


def _resistivities(source: Source, options: Options) -> Iterator[dict[str, str | float]]:
    """PR of every model in every panel."""
    images = ImageReference(dataset=options.dataset, split=options.split, images=options.images, seed=options.seed)
    sample = open_sample(source, images)
    for checkpoint in options.checkpoints_in(source.suite):
        changes = {
            name: panel.instead.get(checkpoint, panel.perturbation).open(source)
            for name, panel in options.panels.items()
        }
        models = {
            name: ModelReference(track=options.track, defense=name, checkpoint=checkpoint, seed=options.seed)
            for name in options.defenses
        }
        for name, model in zip(models, open_models(source, models, sample), strict=True):
            for panel, measured in cosines(model, sample, changes, options.features).items():
                told = resistivity(measured, options.resamples, options.seed)["pr"]
                place = {"panel": panel, "checkpoint": checkpoint, "defense": name}
                yield place | {"pr": told.value, "pr_low": told.low, "pr_high": told.high}


def _draw_points(axis: Axes, points: pd.DataFrame, checkpoint: str, colour: str, marker: str) -> None:
    pr = [points["pr"] - points["pr_low"], points["pr_high"] - points["pr"]]
    asr = [points["asr"] - points["asr_low"], points["asr_high"] - points["asr"]]
    rank, linear = correlations(points)
    axis.errorbar(
        points["pr"], points["asr"], asr, pr, color=colour, marker=marker, linestyle="", elinewidth=0.9,
        markersize=6, label=rf"{checkpoint} ($\rho$ {rank:.2f}, $r$ {linear:.2f})",
    )  # fmt: skip
