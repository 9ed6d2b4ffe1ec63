"""From cells to the rows and columns of a table, before anything is formatted."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pandas as pd

from bench.config import Column, TableSpec
from bench.errors import UserError
from bench.evaluation.metrics import Count, Interval, wilson
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
        names, gaps = map(self.heading, self.columns), map(self.gap_heading, self.gaps)
        return [*self.spec.rows, *names, *(["Avg"] if self.spec.average else []), *gaps, "flags"]

    def heading(self, column: Key) -> str:
        """Name of a column."""
        return " ".join(self.labels(self.spec.columns, column))

    def gap_heading(self, pair: tuple[Key, Key]) -> str:
        """Name of the column with the gap between two others."""
        return " - ".join(map(self.heading, pair))

    @property
    def gaps(self) -> list[tuple[Key, Key]]:
        """The pairs of columns that are alike but for the two attacks of one of the table's ``gaps``."""
        if "attack" not in self.spec.columns:
            return []
        place = self.spec.columns.index("attack")
        pairs = list[tuple[Key, Key]]()
        for column in self.columns:
            other = (*column[:place], self.spec.gaps.get(column[place], ""), *column[place + 1 :])
            pairs += [(column, other)] if other in self.columns else []
        return pairs

    def gap(self, row: Key, pair: tuple[Key, Key]) -> str:
        """How many points the first of two columns lies above the second; a dash where one has no number."""
        first, second = (self.entry(row, column) for column in pair)
        if first.state != "done" or second.state != "done":
            return "-"
        return f"{first.mean - second.mean:+.{self.spec.decimals}f}"

    @property
    def places(self) -> list[Key | None]:
        """The columns with numbers; None stands for their average."""
        return [*self.columns, *([None] if self.spec.average else [])]

    def lines(self, write: Callable[[Key, Key | None], str]) -> list[list[str]]:
        """The body of the table, with each position, given by row and column, put into words by ``write``."""
        return [
            [
                *self.labels(self.spec.rows, row),
                *(write(row, column) for column in self.places),
                *(self.gap(row, pair) for pair in self.gaps),
                " ".join(self.flags(row)),
            ]
            for row in self.rows
        ]

    def sides(self) -> list[str]:
        """To which side each column of the table is set: numbers to the right."""
        names = len(self.spec.rows)
        return ["left"] * names + ["right"] * (len(self.header()) - names - 1) + ["left"]

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
        """What stands at a row and a column."""
        if column is None:
            return _average([self.entry(row, each) for each in self.columns])
        cells = self.cells.get((row, column), [])
        return _mean(cells, self.spec.mean_over) if self.spec.mean_over else _entry(cells)


def pivot(cells: pd.DataFrame, spec: TableSpec, where: str) -> Pivot:
    """Arrange the cells that a table shows.

    ``cells.csv`` is in the suite's order, so ids come in the order in which they first appear there; rows and columns
    of the worst case come last. Ids that the table writes alike share a row or a column.

    Args:
        cells: From ``read_cells``.
        spec: The table's description.
        where: File and key of the description, for messages.

    Raises:
        UserError: Several cells fall on one position, which would hide all but one.
    """
    cells = shown(cells, spec)
    first = {name: _first_written_alike(cells[name], spec) for name in (*spec.rows, *spec.columns)}

    def place_of(cell: Any, names: Sequence[Column]) -> Key:
        return tuple(first[name][id_] for name, id_ in zip(names, _key(cell, names), strict=True))

    found = dict[tuple[Key, Key], list[Any]]()
    for cell in cells.itertuples():
        found.setdefault((place_of(cell, spec.rows), place_of(cell, spec.columns)), []).append(cell)
    for place, several in found.items():
        _check_one_cell(place, several, spec, where)
    order = {name: list(first[name]) for name in first}

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


def shown(cells: pd.DataFrame, spec: TableSpec) -> pd.DataFrame:
    """The cells that a table shows."""
    kept = cells["track"].isin(spec.tracks)
    for column, ids in spec.only.items():
        kept &= cells[column].isin(ids)
    return cells[kept]


def _first_written_alike(ids: Iterable[str], spec: TableSpec) -> dict[str, str]:
    """For each id, the first one that the table writes in the same way."""
    first = dict[str, str]()
    return {id_: first.setdefault(spec.names.get(id_, id_), id_) for id_ in dict.fromkeys(ids)}


def _key(cell: Any, names: Sequence[Column]) -> Key:
    return tuple(str(getattr(cell, name)) for name in names)


def _check_one_cell(place: tuple[Key, Key], cells: list[Any], spec: TableSpec, where: str) -> None:
    """Cells on one position may differ in their seed, and in what the table takes the mean over."""
    free = ("seed", *spec.mean_over)
    differing = [name for name in IDS if name not in free and len({getattr(cell, name) for cell in cells}) > 1]
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
            return Entry("-" if cell.state == "not_applicable" else cell.state, {})
        if pd.isna(cell.value):
            return Entry("no images", {})
    interval = Interval(cells[0].low, cells[0].high) if len(cells) == 1 else None
    return Entry("done", {cell.seed: cell.value for cell in cells}, interval)


def _mean(cells: list[Any], over: Sequence[Column]) -> Entry:
    """The mean of what differs in ``over``; its interval is that of all images together, where they weigh the same."""
    groups = dict[Key, list[Any]]()
    for cell in cells:
        groups.setdefault(_key(cell, over), []).append(cell)
    average = _average([_entry(group) for group in groups.values()])
    if average.state != "done" or len(average.values) > 1 or len({cell.n for cell in cells}) > 1:
        return average
    hits, images = (int(sum(getattr(cell, name) for cell in cells)) for name in ("hits", "n"))
    return average._replace(interval=wilson(Count(hits, images)))


def _average(entries: list[Entry]) -> Entry:
    """The mean over the columns; seed by seed, where all columns have the same seeds."""
    if not entries or any(entry.state != "done" for entry in entries):
        return Entry("-", {})
    seeds = entries[0].values.keys()
    if any(entry.values.keys() != seeds for entry in entries):
        return Entry("done", {0: fmean(entry.mean for entry in entries)})
    return Entry("done", {seed: fmean(entry.values[seed] for entry in entries) for seed in seeds})
