"""Which modules carry the robustness: a robust model's put into the standard one, from the input on (R-Adapt).

Figures 2 (b), 4, 8, 9 and 12. The standard model's modules are replaced one after the other, and none is put back.
After each one the accuracies are measured; white-box attacks are on the mixture itself. Before the first it is the
standard model, at the end the robust one; prompts are the standard model's. What the paper's ``Emb.`` includes is not
said; here it is all before the first block.
"""

from collections.abc import Iterator
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import Field

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.subjects.attacking import open_attack, robust_count, threat_model
from bench.analyses.subjects.models import Loaded, Opened, Sample, load_models, open_sample
from bench.analyses.subjects.references import AttackReference, ImageReference, ModelReference
from bench.analyses.subjects.towers import check_towers, copy_of, modules_of, take_over
from bench.clip.defended import DefendedCLIP
from bench.config import Options as Closed
from bench.defenses.artefact import task_of
from bench.errors import unknown
from bench.evaluation.adversary import Attacker
from bench.evaluation.metrics import wilson
from bench.progress import track

START = "none"
_DASHES: tuple[Literal["--", "-", "-.", ":"], ...] = ("--", "-", "-.", ":")


class Options(Closed):
    """What to put together, and what to measure.

    Attributes:
        panels: Images by the title of their panel.
        standard: The model whose modules are replaced.
        models: The models that they are taken from, by the name of their line.
        attacks: Conditions by the name of their line; a clean one is one of them.
        modules: Measure only after these, such as ``Emb.`` and ``B1-Attn``, beside start and end; all if empty.
    """

    panels: dict[str, ImageReference] = Field(min_length=1)
    standard: ModelReference
    models: dict[str, ModelReference] = Field(min_length=1)
    attacks: dict[str, AttackReference] = Field(min_length=1, max_length=len(_DASHES))
    modules: tuple[str, ...] = ()


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each panel, model, number of replaced modules and attack; ``stage`` is the last module replaced."""
    attackers = {
        label: open_attack(source, attack, f"options.attacks.{label}") for label, attack in options.attacks.items()
    }
    lines = list[dict[str, Any]]()
    for panel, images in options.panels.items():
        sample = open_sample(source, images)
        (standard,) = load_models(source, {"standard": options.standard}, images.dataset)
        task = task_of(sample.manifest, standard.template)
        start = standard.opened(task)
        for robust in load_models(source, options.models, images.dataset):
            check_towers(source, standard.defended, robust.defended, robust.name)
            for place, stage, mixed in mixtures(source, standard, robust, options.modules):
                about = {"panel": panel, "model": robust.name, "place": place, "stage": stage}
                model = standard._replace(defended=mixed).opened(task)
                for label, attacker in attackers.items():
                    lines.append(about | {"attack": label} | _measured(source, attacker, model, start, sample))
    return pd.DataFrame(lines)


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """One panel for each set of images; colours tell models apart, dashes attacks."""
    rows, columns = style.grid_of(len(options.panels), 2)
    width = 0.9 + 0.2 * frame["place"].nunique()
    picture = style.figure(0.5 + columns * max(3.2, width), 0.6 + 2.7 * rows)
    axes = style.panels(picture, rows, columns, len(options.panels), sharey=True)
    colour, mark = style.colours(frame["model"]), style.markers(frame["model"])
    dashes = dict(zip(options.attacks, _DASHES, strict=False))
    for axis, panel in zip(axes, options.panels, strict=True):
        found = frame[frame["panel"] == panel]
        for (model, attack), line in found.groupby(["model", "attack"], sort=False):
            name = str(model)
            axis.fill_between(line["place"], line["low"], line["high"], color=colour[name], alpha=0.12, linewidth=0)
            axis.plot(
                line["place"], line["value"], color=colour[name], marker=mark[name], markersize=3,
                linestyle=dashes[str(attack)],
            )  # fmt: skip
        axis.set_title(panel)
        _label_stages(axis, found)
    for axis in axes[::columns]:
        axis.set_ylabel("accuracy (%)")
    kinds = [Line2D([], [], color=style.INK, linestyle=dash) for dash in dashes.values()]
    lines = [Line2D([], [], color=colour[name], marker=mark[name]) for name in colour]
    picture.legend([*kinds, *lines], [*dashes, *colour], loc="outside lower center", ncols=6)
    return picture


def mixtures(
    source: Source, standard: Loaded, robust: Loaded, only: tuple[str, ...] = ()
) -> Iterator[tuple[int, str, DefendedCLIP]]:
    """The mixtures of two models, each with its number of replaced modules and the last one of them.

    All are the same model, whose weights change when the next one is asked for.

    Args:
        source: For messages.
        standard: The start.
        robust: The end.
        only: Modules after which a mixture is given; all if empty. Start and end always are.

    Raises:
        UserError: There is no such module.
    """
    mixed, modules = copy_of(standard.defended), modules_of(standard.defended.staged)
    for name in only:
        if name not in modules:
            raise unknown("module", name, modules, f"{source.where}.options.modules")
    yield 0, START, mixed
    for place, (stage, names) in enumerate(track(modules.items(), robust.name), start=1):
        take_over(mixed, robust.defended, names)
        if not only or stage in only or place == len(modules):
            yield place, stage, mixed


def _measured(source: Source, attacker: Attacker, mixed: Opened, standard: Opened, sample: Sample) -> dict[str, Any]:
    counted = robust_count(source, attacker, mixed, standard, sample)
    low, high = wilson(counted)
    return {
        "threat_model": threat_model(source, attacker), "n": counted.total, "hits": counted.hits,
        "value": counted.percent, "low": low, "high": high,
    }  # fmt: skip


def _label_stages(axis: Axes, found: pd.DataFrame) -> None:
    stages = found.drop_duplicates("place").set_index("place")["stage"]
    axis.set_xticks(list(stages.index), list(stages), rotation=90)
    axis.set_xlabel("replaced up to")
    axis.set_ylim(-3, 103)
