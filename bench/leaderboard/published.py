"""Published values: the numbers of a paper's tables, one CSV per table, in the ids that measured cells have.

A line holds one number. ``row`` and ``column`` say where it stands in the paper; the ids after them say what it is, so
that a measured cell can be joined with it. What the paper's defaults do not cover stands in ``setting``.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import StringConstraints

from bench.config import Options, parse
from bench.errors import UserError, unknown

AVERAGE = "average"
IDS = ("architecture", "checkpoint", "dataset", "defense", "attack", "eps", "metric", "setting")

_PERCENT = (0.0, 100.0)
_POINTS = (-100.0, 100.0)
_COSINE = (-1.0, 1.0)
_POSITIVE = (0.0, float("inf"))
RANGES = {
    **dict.fromkeys(("CA", "RA", "ASR", "CU", "R@1", "R@10"), _PERCENT),
    **dict.fromkeys(("CA_gain", "RA_gain", "R@1_gain", "R@10_gain"), _POINTS),
    **dict.fromkeys(("PR", "cosine"), _COSINE),
    **dict.fromkeys(("training_seconds", "gpu_megabytes", "tuned_millions", "training_thousands"), _POSITIVE),
    **dict.fromkeys(("alpha", "beta", "cutoff"), (float("-inf"), float("inf"))),
}
"""The metrics, and between which bounds they lie: percent, points for gains, fractions for PR and cosine."""

_Text = Annotated[str, StringConstraints(min_length=1)]
_Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]*$")]
_Setting = Annotated[str, StringConstraints(pattern=r"^([a-z_]+=[^;=]+(;[a-z_]+=[^;=]+)*)?$")]


class Line(Options):
    """One line of a table's CSV, as text. Ids that do not apply are empty.

    Attributes:
        table: The file's name without its ending: ``table_1``, ``table_s1`` (supplement), ``text`` (running text).
        row: Labels of the row in the paper, outer ones first.
        column: Labels of the column in the paper, outer ones first.
        architecture: Backbone.
        checkpoint: Backdoor that the model carries, by its trigger; ``clean`` for none.
        dataset: Where it is measured; ``average`` for the paper's mean over datasets.
        defense: Id, or ids joined by ``+`` in the order in which they are applied; ``none`` for the undefended model.
        attack: What is done to the test images.
        eps: Bound of the attack in /255.
        metric: One of ``RANGES``. The gain of a defense over that in the setting ``over`` is a metric of its own.
        setting: ``key=value`` for what differs from the paper's defaults, sorted by key, separated by ``;``.
        value: The number with the decimals that the paper prints; empty if it cannot be read.
        note: How a damaged number was read, or why it was not.
    """

    table: _Id
    row: _Text
    column: _Text
    architecture: str
    checkpoint: _Id
    dataset: _Id
    defense: Annotated[str, StringConstraints(pattern=r"^([a-z0-9_]+(\+[a-z0-9_]+)*)?$")]
    attack: _Id
    eps: Annotated[str, StringConstraints(pattern=r"^(\d+(\.\d+)?)?$")]
    metric: str
    setting: _Setting
    value: Annotated[str, StringConstraints(pattern=r"^(-?\d+(\.\d+)?)?$")]
    note: str


def read_published(folder: Path) -> pd.DataFrame:
    """All published values of a paper.

    Args:
        folder: Where its tables are, one CSV each.

    Returns:
        The columns of ``Line``, with ``value`` as a number (NaN where it cannot be read), and ``decimals``, the number
        of decimals that the paper prints.

    Raises:
        UserError: There is no table, or a line is damaged, out of range or repeated.
    """
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise UserError(f"{folder} holds no CSV of published values; name a folder leaderboards/<paper>/published")
    lines = [line for path in paths for line in _read(path)]
    published = pd.DataFrame([line.model_dump() for line in lines], dtype="str")
    published["decimals"] = [len(line.value.partition(".")[2]) for line in lines]
    published["value"] = pd.to_numeric(published["value"])
    return published


def _read(path: Path) -> Iterator[Line]:
    """The lines of one table; raises as ``read_published`` says."""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); save it in that encoding") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    header = list(Line.model_fields)
    first = next(reader, [])
    if first != header:
        raise UserError(f"{path}: line 1 has the columns {first}, not {header}; mend the header")
    places = dict[tuple[str, str, str], int]()
    for fields in reader:
        where = f"{path}: line {reader.line_num}"
        if len(fields) != len(header):
            raise UserError(f"{where} has {len(fields)} values, not {len(header)}; mend the line")
        line = parse(Line, dict(zip(header, fields, strict=True)), where)
        _check(line, path.stem, where)
        place = line.row, line.column, line.metric
        if place in places:
            raise UserError(f"{where} repeats line {places[place]} ({', '.join(place)}); remove one of them")
        places[place] = reader.line_num
        yield line


def _check(line: Line, table: str, where: str) -> None:
    if line.table != table:
        raise UserError(f"{where}: table: '{line.table}' does not belong in this file; write '{table}'")
    if line.metric not in RANGES:
        raise unknown("metric", line.metric, RANGES, f"{where}: metric")
    keys = [part.partition("=")[0] for part in line.setting.split(";")]
    if keys != sorted(set(keys)):
        raise UserError(f"{where}: setting: '{line.setting}' must name each key once, in alphabetical order")
    if not line.value and not line.note:
        raise UserError(f"{where}: value: a number is missing; write it, or say in the note why it cannot be read")
    low, high = RANGES[line.metric]
    if line.value and not low <= float(line.value) <= high:
        raise UserError(f"{where}: value: {line.value} is no {line.metric}, which lies in [{low}, {high}]; mend it")
