"""Each table as its paper prints it, coloured by what is worst known of the defense, and its defenses by rank."""

from itertools import groupby
from typing import NamedTuple

import pandas as pd

from bench.config import Suite
from bench.leaderboard.collect import CONTROL_SURVIVES
from bench.leaderboard.pivot import Key, Pivot
from bench.leaderboard.position import Position
from bench.leaderboard.table import Table, make_table
from bench.leaderboard.words import written
from bench.paths import Paths

# Of attack success, less is better for who defends.
_LESS_IS_BETTER = "ASR"


class Tile(NamedTuple):
    """One position.

    Attributes:
        text: The measured number, or the state that stands instead of one.
        paper: The published number; empty if there is none.
        told: All that is known of it, for who points at it.
        good: How well the defense does at its worst known, from 0 to 1; None without a number or a meaning.
    """

    text: str
    paper: str
    told: str
    good: float | None


class Group(NamedTuple):
    """Rows that share all ids but their last.

    Attributes:
        label: What they share; empty if rows have one id.
        rows: The last id of each, and its positions.
    """

    label: str
    rows: list[tuple[str, list[Tile]]]


class Rank(NamedTuple):
    """A defense among the others of its track.

    Attributes:
        rank: Its place; empty where a number is missing.
        defense: How it is written.
        metric: Which metric says so.
        known: What is worst known of it, percent; None where a number is missing.
    """

    rank: str
    defense: str
    metric: str
    known: float | None


class Layout(NamedTuple):
    """A table.

    Attributes:
        corner: What names a row.
        spans: The columns' ids but their last, each with how many columns share it; empty if columns have one id.
        columns: The last id of each column.
        groups: The rows.
        ranks: By track and metric, where more than one defense has a rank.
    """

    corner: str
    spans: list[tuple[str, int]]
    columns: list[str]
    groups: list[Group]
    ranks: dict[str, list[Rank]]


def layout(suite: Suite, name: str, cells: pd.DataFrame, paths: Paths) -> Layout:
    """The table ``name`` of the suite.

    Args:
        suite: The benchmark.
        name: Id of the table.
        cells: From ``read_cells``.
        paths: Where published numbers are.

    Raises:
        UserError: As ``bench.leaderboard.table.make_table`` says.
    """
    table = make_table(suite, name, cells, paths)
    found, spec = table.pivot, table.pivot.spec
    heads = [found.labels(spec.columns, column) for column in found.columns]
    spans = [(" ".join(shared), len(list(some))) for shared, some in groupby(heads, lambda head: head[:-1]) if shared]
    added = [*(["Avg"] if spec.average else []), *map(found.gap_heading, found.gaps)]
    return Layout(
        corner=spec.rows[-1],
        spans=[*spans, *(("", 1) for _ in added)] if spans else [],
        columns=[*(" ".join(head[-1:]) for head in heads), *added],
        groups=[
            Group(" ".join(found.labels(spec.rows[:-1], shared)), [_row(table, row) for row in rows])
            for shared, rows in groupby(found.rows, lambda row: row[:-1])
        ],
        ranks=_ranks(table),
    )


def _row(table: Table, row: Key) -> tuple[str, list[Tile]]:
    found = table.pivot
    tiles = [_tile(found, table.positions[row, column]) for column in found.places]
    gaps = [Tile(text := found.gap(row, pair), "", text, None) for pair in found.gaps]
    return found.labels(found.spec.rows, row)[-1], [*tiles, *gaps]


def _tile(pivot: Pivot, position: Position) -> Tile:
    entry, decimals = position.entry, pivot.spec.decimals
    told = [written(position, decimals), *(flag.replace("_", " ") for flag in position.flags)]
    paper = str(position.published or "")
    if entry.state != "done":
        return Tile(entry.state.replace("_", " "), paper, "; ".join(told), None)
    worst = entry.mean if position.worst_known is None else position.worst_known
    share = min(1.0, max(0.0, worst / 100))
    metrics = {cell.metric for cell in position.cells}
    good = 1 - share if metrics == {_LESS_IS_BETTER} else share
    # Numbers of different kinds have no common scale, and where the control survives no defense is credited.
    credited = len(metrics) == 1 and CONTROL_SURVIVES not in position.flags
    return Tile(f"{entry.mean:.{decimals}f}", paper, "; ".join(told), good if credited else None)


def _ranks(table: Table) -> dict[str, list[Rank]]:
    """Those of each track and metric, told apart in the heading where there are several."""
    label, found = table.pivot.label, dict[str, list[Rank]]()
    tracks = {line["track"] for line in table.ranking}
    for line in table.ranking:
        track = f"{label('track', line['track'])}, " if len(tracks) > 1 else ""
        heading = f"{track}{label('metric', line['metric'])}"
        rank = Rank(str(line["rank"] or ""), label("defense", line["defense"]), line["metric"], line["worst_known"])
        found.setdefault(heading, []).append(rank)
    return {heading: ranks for heading, ranks in found.items() if any(rank.rank for rank in ranks)}
