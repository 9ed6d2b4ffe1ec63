"""Tables in a paper's layout, from ``cells.csv``: CSV for programs, Markdown for people."""

import csv
import io

import pandas as pd

from bench.config import Suite
from bench.errors import UserError
from bench.files import write_text
from bench.leaderboard.markdown import markdown
from bench.leaderboard.pivot import Entry, Pivot, pivot
from bench.leaderboard.verify import read_cells
from bench.paths import Paths


def write_table(suite: Suite, name: str, paths: Paths) -> None:
    """Write ``<name>.csv`` and ``<name>.md`` beside ``cells.csv``.

    Where there is no number, the cell's state stands; ``-`` marks what the suite has no cell for.

    Args:
        suite: The benchmark.
        name: Id of the table.
        paths: Where ``cells.csv`` is.

    Raises:
        UserError: ``cells.csv`` is missing, is damaged or lacks the undefended control; the table's description puts
            several cells on one position; or its name is that of another file.
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
    table = pivot(cells, spec, where)
    write_text(paths.boards / f"{name}.csv", _csv(table))
    write_text(paths.boards / f"{name}.md", markdown(table, suite))


def _has_control(cells: pd.DataFrame, track: str, control: str) -> bool:
    return bool(((cells["track"] == track) & (cells["defense"] == control)).any())


def _csv(table: Pivot) -> str:
    def written(entry: Entry) -> str:
        return f"{entry.mean:.{table.spec.decimals}f}" if entry.state == "done" else entry.state

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.header(), *table.lines(written)])
    return text.getvalue()
