"""Tables in a paper's layout, from ``cells.csv``: CSV for programs, Markdown for people, LaTeX for papers."""

import csv
import io
from typing import Any, NamedTuple

import pandas as pd

from bench.config import Suite
from bench.errors import UserError
from bench.files import write_text
from bench.leaderboard.join import Join, join
from bench.leaderboard.latex import latex
from bench.leaderboard.long import long_csv
from bench.leaderboard.markdown import markdown
from bench.leaderboard.pivot import Key, Pivot, pivot, shown
from bench.leaderboard.position import Place, Position, positions
from bench.leaderboard.standing import ranking, with_worst_known
from bench.leaderboard.verify import read_cells
from bench.leaderboard.worst import WORST
from bench.paths import Paths


class Table(NamedTuple):
    """All that is known of a table.

    Attributes:
        pivot: Its rows and columns.
        published: The paper's numbers, if it mirrors any.
        positions: What stands at each row and column.
        ranking: Its defenses by what is worst known of them, as ``bench.leaderboard.standing.ranking`` has it.
    """

    pivot: Pivot
    published: Join | None
    positions: dict[Place, Position]
    ranking: list[dict[str, Any]]


def write_table(suite: Suite, name: str, paths: Paths) -> None:
    """Write ``<name>.csv``, ``.long.csv``, ``.md`` and ``.tex`` beside ``cells.csv``.

    Args:
        suite: The benchmark.
        name: Id of the table.
        paths: Where ``cells.csv`` is.

    Raises:
        UserError: ``cells.csv`` is missing, is damaged or lacks the undefended control; the name is that of another
            file; or as ``make_table`` says.
    """
    spec, source, where = suite.tables[name], paths.boards / "cells.csv", f"{paths.suite}: tables.{name}"
    if name == source.stem:
        raise UserError(f"{where}: this name would overwrite {source}; rename the table")
    cells = read_cells(source)
    for track in spec.tracks:
        if not _has_control(cells, track, suite.control):
            raise UserError(
                f"{where}: {source} has no row of the undefended control '{suite.control}' in track '{track}'; "
                f"make it again with: bench collect --suite {paths.suite}"
            )
    table = make_table(suite, name, cells, paths)
    joined = any(position.published for position in table.positions.values())
    # A rehearsal has models of another architecture.
    if table.published is not None and not joined and suite.limit is None:
        raise UserError(f"{where}.published: no number of {spec.published} stands for a cell; mend the ids in 'joined'")
    contents = {
        ".csv": _csv(table.pivot),
        ".long.csv": long_csv(table.pivot, table.positions, table.published),
        ".md": markdown(table.pivot, suite, table.positions, table.ranking),
        ".tex": latex(table.pivot, table.positions),
    }
    for ending, text in contents.items():
        write_text(paths.boards / f"{name}{ending}", text)


def make_table(suite: Suite, name: str, cells: pd.DataFrame, paths: Paths) -> Table:
    """Arrange the cells of a table, and set beside them what is published and what is worst known.

    Where there is no number, the cell's state stands; ``-`` marks what the suite has no cell for. Submitted attacks
    have no position in the paper's layout; they count in what is worst known.

    Args:
        suite: The benchmark.
        name: Id of the table.
        cells: From ``read_cells``.
        paths: Where published numbers are.

    Raises:
        UserError: The table's description puts several cells on one position, or published numbers where none can
            stand.
    """
    spec, where, known = suite.tables[name], f"{paths.suite}: tables.{name}", with_worst_known(cells)
    own = known[known["attack"].isin([*suite.attacks, WORST])]
    table, published = pivot(own, spec, where), join(suite, spec, paths, where)
    return Table(table, published, positions(table, published), ranking(shown(own, spec)))


def _has_control(cells: pd.DataFrame, track: str, control: str) -> bool:
    return bool(((cells["track"] == track) & (cells["defense"] == control)).any())


def _csv(table: Pivot) -> str:
    def written(row: Key, column: Key | None) -> str:
        entry = table.entry(row, column)
        return f"{entry.mean:.{table.spec.decimals}f}" if entry.state == "done" else entry.state

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.header(), *table.lines(written)])
    return text.getvalue()
