"""Whether a suite's tables can be made: every position must hold the seeds of one cell, and no more."""

from collections.abc import Iterator

from bench.config import Column, Metric, Suite, TableSpec
from bench.errors import unknown
from bench.evaluation.cells import cells_of
from bench.leaderboard.worst import WORST


def table_faults(suite: Suite, metrics: dict[str, Metric]) -> Iterator[str]:
    """What is wrong with the rows and columns of each table.

    Args:
        suite: The benchmark.
        metrics: What each attack's cells count; attacks that could not be loaded are left out.
    """
    for name, table in suite.tables.items():
        key = f"tables.{name}"
        for part in ("rows", "columns"):
            if not getattr(table, part):
                yield f"{key}.{part}: empty; name at least one of what the cells are told apart by"
        named: list[Column] = [*table.rows, *table.columns, *table.mean_over]
        twice = sorted({column for column in named if named.count(column) > 1})
        if twice:
            yield f"{key}: {', '.join(twice)} named twice in rows, columns and mean_over; once is enough"
        yield from _unknown_ids(suite, table, metrics, key)
        shared = _shared(suite, table, named, metrics)
        if shared:
            yield f"{key}: cells that differ in {', '.join(shared)} fall on one position; add it to rows or columns"


def _unknown_ids(suite: Suite, table: TableSpec, metrics: dict[str, Metric], key: str) -> Iterator[str]:
    """Ids that the table names and none of its tracks has."""
    cells = [cell for track in table.tracks for cell in _cells(suite, track, metrics)]
    for column, ids in table.only.items():
        known = {cell[column] for cell in cells} | ({WORST} if column == "attack" else set())
        yield from (str(unknown(column, name, known, f"{key}.only.{column}")) for name in ids if name not in known)
    if table.gaps and "attack" not in table.columns:
        yield f"{key}.gaps: lie between columns of attacks; name attack in columns"
    attacks = {cell["attack"] for cell in cells} | {WORST}
    for name in dict.fromkeys([*table.gaps, *table.gaps.values()]):
        if name not in attacks:
            yield str(unknown("attack", name, attacks, f"{key}.gaps"))


def _shared(suite: Suite, table: TableSpec, named: list[Column], metrics: dict[str, Metric]) -> list[str]:
    """In what the cells that would stand on the same position differ."""
    positions = dict[tuple[str, ...], list[dict[Column, str]]]()
    shown = (cell for track in table.tracks for cell in _cells(suite, track, metrics) if table.shows(cell))
    for cell in shown:
        positions.setdefault(tuple(cell[column] for column in named), []).append(cell)
    differing = [
        column
        for cells in positions.values()
        for column in cells[0]
        if column != "metric" and len({cell[column] for cell in cells}) > 1
    ]
    return list(dict.fromkeys(differing))


def _cells(suite: Suite, track: str, metrics: dict[str, Metric]) -> Iterator[dict[Column, str]]:
    for defense in suite.tracks[track].defenses:
        for attack in suite.tracks[track].attacks:
            for cell in cells_of(suite, track, defense, attack):
                yield {
                    "track": track,
                    "defense": defense,
                    "checkpoint": cell.checkpoint,
                    "dataset": cell.dataset,
                    "split": cell.split,
                    "attack": attack,
                    "metric": metrics.get(attack, attack),
                }
