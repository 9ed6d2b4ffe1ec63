"""Tables in a paper's layout, from ``cells.csv``: CSV for programs, Markdown for people, LaTeX for papers."""

import csv
import io

import pandas as pd

from bench.config import Suite
from bench.errors import UserError
from bench.files import write_text
from bench.leaderboard.join import join
from bench.leaderboard.latex import latex
from bench.leaderboard.long import long_csv
from bench.leaderboard.markdown import markdown
from bench.leaderboard.pivot import Key, Pivot, pivot, shown
from bench.leaderboard.position import positions
from bench.leaderboard.standing import ranking, with_worst_known
from bench.leaderboard.verify import read_cells
from bench.leaderboard.worst import WORST
from bench.paths import Paths


def write_table(suite: Suite, name: str, paths: Paths) -> None:
    """Write ``<name>.csv``, ``.long.csv``, ``.md`` and ``.tex`` beside ``cells.csv``.

    Where there is no number, the cell's state stands; ``-`` marks what the suite has no cell for. Submitted attacks
    have no position in the paper's layout; they count in what is worst known.

    Args:
        suite: The benchmark.
        name: Id of the table.
        paths: Where ``cells.csv`` is.

    Raises:
        UserError: ``cells.csv`` is missing, is damaged or lacks the undefended control; the table's description puts
            several cells on one position, or published numbers where none can stand; or its name is that of another
            file.
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
    cells = with_worst_known(cells)
    own = cells[cells["attack"].isin([*suite.attacks, WORST])]
    table, published = pivot(own, spec, where), join(suite, spec, paths, where)
    found = positions(table, published)
    joined = any(position.published for position in found.values())
    # A rehearsal has models of another architecture.
    if published is not None and not joined and suite.limit is None:
        raise UserError(f"{where}.published: no number of {spec.published} stands for a cell; mend the ids in 'joined'")
    contents = {
        ".csv": _csv(table),
        ".long.csv": long_csv(table, found, published),
        ".md": markdown(table, suite, found, ranking(shown(own, spec))),
        ".tex": latex(table, found),
    }
    for ending, text in contents.items():
        write_text(paths.boards / f"{name}{ending}", text)


def _has_control(cells: pd.DataFrame, track: str, control: str) -> bool:
    return bool(((cells["track"] == track) & (cells["defense"] == control)).any())


def _csv(table: Pivot) -> str:
    def written(row: Key, column: Key | None) -> str:
        entry = table.entry(row, column)
        return f"{entry.mean:.{table.spec.decimals}f}" if entry.state == "done" else entry.state

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.header(), *table.lines(written)])
    return text.getvalue()
