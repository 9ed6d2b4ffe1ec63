"""The settings of several defenses side by side: the weights and cutoffs of R-Adapt's forms (R-Adapt, table 9).

Read from the suite, defaults filled in; of a defense in several parts, the last part that has the option.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from pydantic import Field
from tabulate import tabulate

from bench.analyses.contract import Source
from bench.analyses.subjects.models import defense_parts
from bench.analyses.subjects.references import ModelReference
from bench.clip.small import small_architectures
from bench.config import Options as Closed
from bench.errors import UserError, unknown
from bench.leaderboard.join import published_lines

_OURS, _PUBLISHED = "here", "published"


class Options(Closed):
    """What to show.

    Attributes:
        models: By the name of their column.
        settings: Options of their defenses, by the name of their row, which is the paper's.
        published: The paper's table with the same rows and columns, as ``r_adapt/table_9``; empty for none.
    """

    models: dict[str, ModelReference] = Field(min_length=1)
    settings: dict[str, str] = Field(default={"alpha": "alpha", "beta": "beta", "D0": "cutoff"}, min_length=1)
    published: str = Field(default="", pattern=r"^$|^[a-z0-9_]+/[a-z0-9_]+$")


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each ``setting``, ``model`` and ``view`` (``here`` or ``published``); empty for a null."""
    lines: list[dict[str, Any]] = [
        {"setting": setting, "model": name, "view": _OURS, "value": _value(source, name, model, option)}
        for setting, option in options.settings.items()
        for name, model in options.models.items()
    ]
    return pd.DataFrame([*lines, *_published(source, options)])


def table(frame: pd.DataFrame, options: Options) -> str:
    """In the paper's layout; its own numbers, where they are named, stand below each row."""
    found = {(line["setting"], line["model"], line["view"]): line for line in frame.to_dict("records")}
    body = [
        [f"{setting}{heading}", *(_written(found.get((setting, model, view))) for model in options.models)]
        for setting in options.settings
        for view, heading in ((_OURS, ""), *([(_PUBLISHED, ", published")] if options.published else []))
    ]
    sides = ["left", *["right"] * len(options.models)]
    return tabulate(body, ["", *options.models], tablefmt="pipe", disable_numparse=True, colalign=sides)


def _value(source: Source, name: str, model: ModelReference, option: str) -> float | None:
    parts = defense_parts(source, model.track, model.defense)
    settings: dict[str, Any] = {key: value for part in parts for key, value in part.options}
    if option not in settings:
        raise unknown(f"option of model '{name}'", option, settings, f"{source.where}.options.settings")
    return settings[option]


def _published(source: Source, options: Options) -> list[dict[str, Any]]:
    if not options.published:
        return []
    for name, model in options.models.items():
        if source.suite.checkpoints[model.checkpoint].base["architecture"] in small_architectures():
            raise UserError(
                f"{source.where}.options.published: model '{name}' is a mini model, whose numbers are never set beside "
                "published ones; leave this key out"
            )
    found = published_lines(source.paths, options.published, f"{source.where}.options.published")
    return [
        {"setting": line["row"], "model": line["column"], "view": _PUBLISHED, "value": line["value"]}
        for line in found.to_dict("records")
        if line["row"] in options.settings and line["column"] in options.models
    ]


def _written(line: Mapping[Any, Any] | None) -> str:
    if line is None:
        return "-"
    return "none" if pd.isna(line["value"]) else f"{line['value']:g}"
