"""A table with one line per position, for programs: measured, published, gap, worst known, and where it comes from."""

import csv
import io
from collections.abc import Iterator

from bench.leaderboard.join import Join
from bench.leaderboard.pivot import Pivot
from bench.leaderboard.position import NAMES, Place, Position

HEADER = (
    *("row", "column", *NAMES, "state", "measured", "deviation", "low", "high", "published", "gap", "worst_known"),
    *("rank", "flags", "n", "seeds", "records"),
)
"""The columns of ``<table>.long.csv``; values in percent, several seeds and records separated by spaces."""


def long_csv(pivot: Pivot, found: dict[Place, Position], join: Join | None) -> str:
    """One line for each position, then one with the state ``-`` for each published number that no position stands for.

    Args:
        pivot: The table.
        found: What is known of its positions.
        join: The published numbers, if the table mirrors any.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_line(pivot, place, position) for place, position in found.items())
    writer.writerows(_unmeasured(join, found) if join else ())
    return text.getvalue()


def _line(pivot: Pivot, place: Place, position: Position) -> dict[str, str]:
    (row, column), entry, done = place, position.entry, position.entry.state == "done"
    numbers = {
        "measured": entry.mean if done else None,
        "deviation": entry.deviation if done else None,
        "low": entry.interval.low if entry.interval else None,
        "high": entry.interval.high if entry.interval else None,
        "gap": position.gap,
        "worst_known": position.worst_known,
    }
    sizes = dict.fromkeys(f"{cell.n:.0f}" for cell in position.cells) if done else ()
    return position.ids | {
        "row": " / ".join(pivot.labels(pivot.spec.rows, row)),
        "column": "Avg" if column is None else " ".join(pivot.labels(pivot.spec.columns, column)),
        "state": entry.state,
        **{name: "" if number is None else f"{number:.4f}" for name, number in numbers.items()},
        "published": str(position.published or ""),
        "rank": str(position.rank or ""),
        "flags": " ".join(position.flags),
        "n": " ".join(sizes),
        "seeds": " ".join(dict.fromkeys(str(cell.seed) for cell in position.cells)),
        "records": " ".join(position.records),
    }


def _unmeasured(join: Join, found: dict[Place, Position]) -> Iterator[dict[str, str]]:
    for line in join.unmeasured(position.published for position in found.values()).itertuples():
        names = ("row", "column", "checkpoint", "dataset", "defense", "attack", "eps", "metric")
        yield {name: str(getattr(line, name)) for name in names} | {
            "state": "-",
            "published": f"{line.value:.{line.decimals}f}",
        }
