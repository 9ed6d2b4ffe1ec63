"""From cells to the rows and columns of a table, before anything is formatted."""

from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pandas as pd

from bench.config import Column, TableSpec
from bench.errors import UserError
from bench.evaluation.metrics import Interval
from bench.leaderboard.verify import IDS
from bench.leaderboard.worst import WORST

Key = tuple[str, ...]


class Entry(NamedTuple):
    """What one position of a table shows.

    Attributes:
        state: ``done``, or the word that stands there instead of a number.
        values: Percent, by seed.
        interval: The 95 % interval, if there is one value and it was counted.
    """

    state: str
    values: dict[int, float]
    interval: Interval | None = None

    @property
    def mean(self) -> float:
        """Mean over seeds, percent."""
        return fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (n - 1 in the denominator); None for one seed."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


class Pivot(NamedTuple):
    """The positions of a table.

    Attributes:
        spec: The table's description.
        rows: Keys of the rows, in order.
        columns: Keys of the columns, in order.
        cells: What stands at a row and a column: one line of ``cells.csv`` for each seed.
    """

    spec: TableSpec
    rows: list[Key]
    columns: list[Key]
    cells: dict[tuple[Key, Key], list[Any]]

    def header(self) -> list[str]:
        """Names of the columns, those that name the row first."""
        names = [" ".join(self.labels(self.spec.columns, key)) for key in self.columns]
        return [*self.spec.rows, *names, *(["Avg"] if self.spec.average else []), "flags"]

    def lines(self, write: Callable[[Entry], str]) -> list[list[str]]:
        """The body of the table, with each entry put into words by ``write``."""
        return [
            [*self.labels(self.spec.rows, row), *map(write, self._entries(row)), " ".join(self.flags(row))]
            for row in self.rows
        ]

    def flags(self, row: Key) -> list[str]:
        """The flags of all cells of a row."""
        shown = [cell for column in self.columns for cell in self.cells.get((row, column), ())]
        return sorted({flag for cell in shown for flag in cell.flags.split()})

    def labels(self, names: Sequence[Column], key: Key) -> list[str]:
        """How the ids of ``key`` are written."""
        return [self.label(name, value) for name, value in zip(names, key, strict=True)]

    def label(self, name: Column, value: str) -> str:
        """How an id is written."""
        own = "Worst case" if name == "attack" and value == WORST else value
        return self.spec.names.get(value, own)

    def entry(self, row: Key, column: Key | None) -> Entry:
        """What stands at a row and a column; None as column stands for their average."""
        if column is None:
            return _average([self.entry(row, each) for each in self.columns])
        return _entry(self.cells.get((row, column), []))

    def _entries(self, row: Key) -> list[Entry]:
        return [self.entry(row, column) for column in (*self.columns, *([None] if self.spec.average else []))]


def pivot(cells: pd.DataFrame, spec: TableSpec, where: str) -> Pivot:
    """Arrange the cells that a table shows.

    ``cells.csv`` is in the suite's order, so ids come in the order in which they first appear there; rows and columns
    of the worst case come last.

    Args:
        cells: From ``read_cells``.
        spec: The table's description.
        where: File and key of the description, for messages.

    Raises:
        UserError: Several cells fall on one position, which would hide all but one.
    """
    shown = cells[[spec.shows(cell) for cell in cells[list(IDS)].astype(str).to_dict("records")]]
    found = dict[tuple[Key, Key], list[Any]]()
    for cell in shown.itertuples():
        found.setdefault((_key(cell, spec.rows), _key(cell, spec.columns)), []).append(cell)
    for place, several in found.items():
        _check_one_cell(place, several, where)
    order = {name: list(dict.fromkeys(shown[name])) for name in (*spec.rows, *spec.columns)}

    def ordered(names: Sequence[Column], keys: set[Key]) -> list[Key]:
        def rank(key: Key) -> tuple[bool, list[int]]:
            named = list(zip(names, key, strict=True))
            return ("attack", WORST) in named, [order[name].index(value) for name, value in named]

        return sorted(keys, key=rank)

    rows, columns = (
        ordered(spec.rows, {row for row, _ in found}),
        ordered(spec.columns, {column for _, column in found}),
    )
    return Pivot(spec, rows, columns, found)


def _key(cell: Any, names: Sequence[Column]) -> Key:
    return tuple(str(getattr(cell, name)) for name in names)


def _check_one_cell(place: tuple[Key, Key], cells: list[Any], where: str) -> None:
    """Cells on one position may differ in their seed only."""
    differing = [name for name in IDS if name != "seed" and len({getattr(cell, name) for cell in cells}) > 1]
    if differing:
        row, column = (" ".join(key) for key in place)
        raise UserError(
            f"{where}: row '{row}', column '{column}' holds several cells, which differ in {', '.join(differing)}; "
            "name one of these in rows or columns"
        )


def _entry(cells: list[Any]) -> Entry:
    """What the cells of one position, one for each seed, come to: a number only if all of them have one."""
    if not cells:
        return Entry("-", {})
    for cell in cells:
        if cell.state != "done":
            return Entry(cell.state, {})
        if pd.isna(cell.value):
            return Entry("no images", {})
    interval = Interval(cells[0].low, cells[0].high) if len(cells) == 1 else None
    return Entry("done", {cell.seed: cell.value for cell in cells}, interval)


def _average(entries: list[Entry]) -> Entry:
    """The mean over the columns; seed by seed, where all columns have the same seeds."""
    if not entries or any(entry.state != "done" for entry in entries):
        return Entry("-", {})
    seeds = entries[0].values.keys()
    if any(entry.values.keys() != seeds for entry in entries):
        return Entry("done", {0: fmean(entry.mean for entry in entries)})
    return Entry("done", {seed: fmean(entry.values[seed] for entry in entries) for seed in seeds})
