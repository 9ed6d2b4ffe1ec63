"""The boards of the report: for each table of a suite its cells, one line each, with what is known beside them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bench.config import Column, Suite, TableSpec
from bench.errors import UserError
from bench.leaderboard.markdown import survivals
from bench.leaderboard.pivot import Entry, Key, Pivot, pivot
from bench.paths import Paths

# In this order of the ids, the defenses that one compares stand below each other.
_ORDER: tuple[Column, ...] = ("track", "checkpoint", "dataset", "split", "metric", "attack", "defense")
# In this order they are shown.
_COLUMNS = {
    "defense": "Defense",
    "checkpoint": "Checkpoint",
    "dataset": "Dataset",
    "attack": "Attack",
    "threat_model": "Threat model",
    "metric": "Metric",
    "split": "Split",
    "track": "Track",
}


class Known(NamedTuple):
    """What is known of a cell from elsewhere, percent; None where nothing is.

    Attributes:
        published: The paper's value.
        worst: The worst value that anyone has shown for it.
    """

    published: float | None = None
    worst: float | None = None


class IdColumn(NamedTuple):
    """A column of a board that holds an id.

    Attributes:
        name: Which id.
        heading: How it is written.
        shared: What all cells have there; empty if they differ.
    """

    name: str
    heading: str
    shared: str


class Line(NamedTuple):
    """One line of a board: a cell, over all its seeds.

    Attributes:
        cells: Its lines of ``cells.csv``, one for each seed.
        labels: How its ids are written.
        entry: What was measured.
        known: What is known from elsewhere.
    """

    cells: list[Any]
    labels: dict[str, str]
    entry: Entry
    known: Known

    @property
    def cell(self) -> Any:
        """The first seed's line of ``cells.csv``; the ids but the seed are those of all."""
        return self.cells[0]

    @property
    def flags(self) -> list[str]:
        """The flags of all seeds."""
        return sorted({flag for cell in self.cells for flag in cell.flags.split()})

    @property
    def gap(self) -> float | None:
        """Measured minus published, points."""
        if self.entry.state != "done" or self.known.published is None:
            return None
        return self.entry.mean - self.known.published


@dataclass(frozen=True)
class Board:
    """One table of the suite as a board.

    Attributes:
        name: Id of the table.
        spec: The table's description.
        lines: Its cells.
        warnings: Where the undefended control survives an attack.
    """

    name: str
    spec: TableSpec
    lines: list[Line]
    warnings: list[str]

    @cached_property
    def ids(self) -> list[IdColumn]:
        """The columns that say what a cell is."""
        values = {name: {line.labels[name] for line in self.lines} for name in _COLUMNS}
        shared = {name: next(iter(labels)) if len(labels) == 1 else "" for name, labels in values.items()}
        return [IdColumn(name, heading, shared[name]) for name, heading in _COLUMNS.items()]

    @cached_property
    def columns(self) -> list[IdColumn]:
        """Those of ``ids`` that a line shows: the defense, and where lines differ; what all share is told once."""
        return [column for column in self.ids if column.name == "defense" or not column.shared]

    @cached_property
    def has_published(self) -> bool:
        """Whether a published value stands beside any of its cells."""
        return any(line.known.published is not None for line in self.lines)

    @cached_property
    def has_worst(self) -> bool:
        """Whether the worst known value of any of its cells is told."""
        return any(line.known.worst is not None for line in self.lines)


def boards(cells: pd.DataFrame, suite: Suite, paths: Paths) -> list[Board]:
    """All tables of a suite as boards.

    Published and worst known values come from ``<table>.long.csv`` beside ``cells.csv``, where there is one. Without
    it, the worst known value of a robust accuracy is the lowest that the suite itself has for that model.

    Args:
        cells: From ``read_cells``.
        suite: The benchmark.
        paths: Where its files are.

    Raises:
        UserError: A ``<table>.long.csv`` is damaged.
    """
    lowest = _lowest(cells)
    return [_board(cells, suite, name, paths, lowest) for name in suite.tables]


def _board(cells: pd.DataFrame, suite: Suite, name: str, paths: Paths, lowest: dict[Key, float]) -> Board:
    spec, where = suite.tables[name], f"{paths.suite}: tables.{name}"
    found = pivot(
        cells,
        spec.model_copy(update={"rows": _ORDER, "columns": (), "average": False, "mean_over": (), "gaps": {}}),
        where,
    )
    references = _references(_long(name, paths))

    def known(row: Key) -> Known:
        own, metric = references.get(row, Known()), row[_ORDER.index("metric")]
        if metric in ("CA", "CU"):
            return own._replace(worst=None)
        return own if own.worst is not None or metric != "RA" else own._replace(worst=lowest.get(_model(row)))

    lines = [_line(found, row, known(row)) for row in found.rows]
    return Board(name, spec, lines, survivals(found, suite))


def _line(found: Pivot, row: Key, known: Known) -> Line:
    entry, cells = found.entry(row, ()), found.cells[row, ()]
    labels: dict[str, str] = dict(zip(_ORDER, found.labels(_ORDER, row), strict=True))
    return Line(cells, labels | {"threat_model": cells[0].threat_model.replace("_", " ")}, entry, known)


def _lowest(cells: pd.DataFrame) -> dict[Key, float]:
    """The lowest robust accuracy of each model on each split, mean over seeds, under any white-box attack or all."""
    done = cells[(cells["state"] == "done") & (cells["metric"] == "RA") & (cells["threat_model"] == "white_box")]
    means = done.groupby(list(_ORDER), as_index=False)["value"].mean().dropna()
    lowest = dict[Key, float]()
    for *row, value in means[[*_ORDER, "value"]].itertuples(index=False, name=None):
        model = _model(tuple(row))
        lowest[model] = min(value, lowest.get(model, value))
    return lowest


def _model(row: Key) -> Key:
    """A row's ids but for attack and metric."""
    return tuple(value for name, value in zip(_ORDER, row, strict=True) if name not in ("attack", "metric"))


def unmeasured(name: str, paths: Paths) -> int:
    """How many published numbers of a table no cell stands for, as its ``<table>.long.csv`` says."""
    path = _long(name, paths)
    if not path.exists():
        return 0
    lines = pd.read_csv(path, dtype="str", keep_default_na=False)
    return int(((lines["state"] == "-") & (lines["published"] != "")).sum())


def _long(name: str, paths: Paths) -> Path:
    return paths.boards / f"{name}.long.csv"


def _references(path: Path) -> dict[Key, Known]:
    """What ``<table>.long.csv`` says of its cells; nothing where there is no such file."""
    if not path.exists():
        return {}
    frame = pd.read_csv(path, dtype="str", keep_default_na=False)
    lacking = [name for name in (*_ORDER, "state", "published", "worst_known") if name not in frame]
    if lacking:
        raise UserError(f"{path} lacks the columns {', '.join(lacking)}; make it again with: bench table")
    try:
        return {
            tuple(row): Known(_number(published), _number(worst))
            for *row, published, worst in frame[[*_ORDER, "published", "worst_known"]].itertuples(
                index=False, name=None
            )
        }
    except ValueError as error:
        raise UserError(f"{path}: {error}; make it again with: bench table") from error


def _number(text: str) -> float | None:
    return float(text) if text else None
