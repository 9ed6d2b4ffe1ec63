"""Reading ``cells.csv``, and holding it against another run: do the measured values lie in the committed intervals?

An interval is about the choice of test images. Training adds to it: rounding differs between processors, and training
carries that on. Runs on other processors, committed beside the boards, widen the intervals by as much as was measured.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import UserError
from bench.leaderboard.collect import Row

IDS = ("track", "defense", "checkpoint", "dataset", "split", "attack", "threat_model", "seed", "metric")
_NUMBERS = ("eps", "seed", "n", "hits", "value", "low", "high")
_SLACK = 1e-6


def read_cells(path: Path) -> pd.DataFrame:
    """The table in a ``cells.csv``: text as it stands, numbers as numbers, NaN where there is none.

    Raises:
        UserError: The file is missing, is damaged, or names a cell twice.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; make it with: bench collect")
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    if tuple(header) != Row._fields:
        raise UserError(f"{path} has the columns {header}, not {list(Row._fields)}; make it again with: bench collect")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise UserError(f"{path}: row {number} has {len(line)} values, not {len(header)}; restore the file")
    # Python's own strings, because cells are mostly gone through one by one.
    cells = pd.DataFrame(lines, columns=header, dtype="object")
    for column in _NUMBERS:
        try:
            cells[column] = pd.to_numeric(cells[column])
        except ValueError as error:
            raise UserError(f"{path}: column {column}: {error}; restore the file") from error
    twice = cells[cells.duplicated(subset=list(IDS))]
    if len(twice):
        raise UserError(f"{path} names a cell twice: {_name(_by_ids(twice).popitem()[0])}; restore the file")
    return cells


def verify_boards(committed: pd.DataFrame, measured: pd.DataFrame, others: Sequence[pd.DataFrame] = ()) -> list[str]:
    """Where a run disagrees with the committed results; cells that only the run has are no disagreement.

    Args:
        committed: Cells with the values and intervals that should hold, from ``read_cells``.
        measured: Cells of the run.
        others: Cells of the same suite on other machines. A cell's interval reaches over those of all of them.

    Returns:
        One sentence for each committed cell that the run lacks, that ended in another state, or whose measured value
        lies outside the committed interval.
    """
    found, ranges = _by_ids(measured), [_by_ids(cells) for cells in (committed, *others)]
    faults = list[str]()
    for ids, cell in ranges[0].items():
        done = [run[ids] for run in ranges if ids in run and run[ids].state == cell.state]
        low, high = min(each.low for each in done), max(each.high for each in done)
        faults.append(_fault(ids, cell._replace(low=low, high=high), found.get(ids)))
    return [fault for fault in faults if fault]


def _by_ids(cells: pd.DataFrame) -> dict[tuple[Any, ...], Any]:
    return {tuple(getattr(cell, name) for name in IDS): cell for cell in cells.itertuples()}


def _fault(ids: tuple[Any, ...], committed: Any, measured: Any | None) -> str:
    if measured is None:
        return f"{_name(ids)}: committed {_told(committed)}, but not measured at all."
    held = f"{_name(ids)}: committed {_told(committed)}, measured {_told(measured)}"
    if measured.state != committed.state:
        return f"{held}: another state."
    if pd.isna(committed.value) and pd.isna(measured.value):
        return ""
    # Written so that NaN on one side only is a disagreement.
    inside = committed.low - _SLACK <= measured.value <= committed.high + _SLACK
    return "" if inside else f"{held}: outside the interval."


def _name(ids: tuple[Any, ...]) -> str:
    named = dict(zip(IDS, ids, strict=True))
    place = f"{named['checkpoint']}.{named['dataset']}.{named['split']}.seed{named['seed']}"
    attack = f"{named['attack']} ({named['threat_model']})"
    return f"{named['metric']} of {named['defense']} under {attack} on {place}, track {named['track']}"


def _told(cell: Any) -> str:
    """State or value of a cell, with its interval."""
    if cell.state != "done":
        return str(cell.state)
    return f"{cell.value:.4f} [{cell.low:.4f}, {cell.high:.4f}]"
