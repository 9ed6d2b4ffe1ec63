"""What a table knows of each of its positions: measured, published, worst known, rank, and where the records are."""

from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from bench.leaderboard.collect import CONTROL_SURVIVES
from bench.leaderboard.join import Join, Published
from bench.leaderboard.pivot import Entry, Key, Pivot
from bench.leaderboard.published import AVERAGE
from bench.leaderboard.standing import ranks
from bench.leaderboard.worst import WORST

NAMES = ("track", "defense", "checkpoint", "dataset", "split", "attack", "threat_model", "eps", "metric")
Place = tuple[Key, Key | None]


class Position(NamedTuple):
    """One position of a table.

    Attributes:
        ids: What the cells of the position share, by ``NAMES``; empty text where they differ.
        entry: The measured value.
        published: The paper's number.
        worst_known: Percent; mean over seeds, and over columns for an average.
        cells: Lines of ``cells.csv``: one for each seed; for an average, all of its row.
        rank: Among the defenses at the same position, by what is worst known; None where no defense is credited.
    """

    ids: dict[str, str]
    entry: Entry
    published: Published | None
    worst_known: float | None
    cells: list[Any]
    rank: int | None = None

    @property
    def gap(self) -> float | None:
        """Measured minus published, in points."""
        if self.entry.state != "done" or self.published is None:
            return None
        return self.entry.mean - self.published.value

    @property
    def flags(self) -> list[str]:
        """The flags of all cells."""
        return sorted({flag for cell in self.cells for flag in cell.flags.split()})

    @property
    def records(self) -> list[str]:
        """Where the records are, below the folder of the boards: a file, and the name of the record in it."""
        return [
            f"{_file(cell)}#{cell.checkpoint}.{cell.dataset}.{cell.split}.seed{cell.seed}"
            for cell in self.cells
            if cell.attack != WORST and cell.state != "missing"
        ]


def positions(pivot: Pivot, join: Join | None) -> dict[Place, Position]:
    """All positions of a table, by row and column; None as column stands for the average.

    Args:
        pivot: The table, of cells that have a ``worst_known``.
        join: The published numbers, if the table mirrors any.
    """
    made = {(row, column): _position(pivot, row, column, join) for row in pivot.rows for column in pivot.places}
    peers = dict[tuple[str, ...], list[Place]]()
    for place, position in made.items():
        if position.worst_known is not None and CONTROL_SURVIVES not in position.flags:
            others = tuple(position.ids[name] for name in NAMES if name != "defense")
            peers.setdefault((*others, *(("average",) if place[1] is None else ())), []).append(place)
    for places in peers.values():
        known = [made[place].worst_known or 0.0 for place in places]
        metric = made[places[0]].ids["metric"]
        for place, rank in zip(places, ranks(metric, known) if metric else (), strict=False):
            made[place] = made[place]._replace(rank=rank)
    return made


def _position(pivot: Pivot, row: Key, column: Key | None, join: Join | None) -> Position:
    columns = pivot.columns if column is None else [column]
    cells = [cell for each in columns for cell in pivot.cells.get((row, each), ())]
    entry = pivot.entry(row, column)
    ids = {name: _shared(cells, name) for name in NAMES}
    datasets = {cell.dataset for cell in cells}
    if (column is None and pivot.spec.columns == ("dataset",)) or "dataset" in pivot.spec.mean_over:
        ids["dataset"] = AVERAGE
    joined = join is not None and bool(cells) and (column is not None or ids["dataset"] == AVERAGE)
    return Position(
        ids=ids,
        entry=entry,
        published=join.find(ids, datasets) if join is not None and joined else None,
        worst_known=fmean(cell.worst_known for cell in cells) if entry.state == "done" else None,
        cells=cells,
    )


def _shared(cells: list[Any], name: str) -> str:
    values = {_text(getattr(cell, name)) for cell in cells}
    return values.pop() if len(values) == 1 else ""


def _text(value: Any) -> str:
    """Numbers without trailing zeros, and NaN as nothing."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value)


def _file(cell: Any) -> str:
    if cell.submission:
        return f"submissions/{cell.submission}/records.jsonl"
    return f"records/{cell.track}/{cell.defense}/{cell.attack}.jsonl"
