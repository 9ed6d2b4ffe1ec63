"""How good a defense is at its worst: the lowest robust accuracy, or the highest attack success, that anyone found.

An attacker who may change a pixel by eps may change it by less, so all attacks up to the same eps count. A single
attack over many images can be lower than the per-sample worst case over the few that all attacks share: both count.
"""

import math
from typing import Any

import pandas as pd

from bench.leaderboard.collect import CONTROL_SURVIVES
from bench.leaderboard.worst import WORST

_PLACE = ("track", "defense", "checkpoint", "dataset", "split", "seed", "metric")
_LESS_IS_BETTER = {"RA": False, "ASR": True, "CA": False, "CU": False}


def with_worst_known(cells: pd.DataFrame) -> pd.DataFrame:
    """``cells`` with a column ``worst_known``, in percent; NaN where the cell has no number.

    Args:
        cells: From ``read_cells``; with the submitted evaluations, for these are what lowers it.
    """
    places = dict[tuple[Any, ...], list[Any]]()
    for cell in cells[cells["value"].notna()].itertuples():
        places.setdefault(_place(cell), []).append(cell)
    known = [_worst_known(cell, places.get(_place(cell), [])) for cell in cells.itertuples()]
    return cells.assign(worst_known=pd.Series(known, index=cells.index, dtype="float64"))


def ranks(metric: str, known: list[float]) -> list[int]:
    """The rank of each worst known value of a metric, 1 for the best; equal values share the better rank."""
    better = sorted(known, reverse=not _LESS_IS_BETTER[metric])
    return [better.index(value) + 1 for value in known]


def ranking(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Defenses by the mean of what is worst known of them, best first; those without all numbers come last.

    Places where the undefended control survives or the backdoor was not planted (``attack_failed``) are left out, for
    there no defense is credited.

    Args:
        cells: The cells of a table, from ``with_worst_known``; CA, CU and the derived worst cases do not count.

    Returns:
        For each metric, track and defense its ``rank`` and ``worst_known``, both None if a number is missing.
    """
    groups = dict[tuple[str, str], dict[str, list[float]]]()
    for cell in cells.itertuples():
        attacked = cell.metric in ("RA", "ASR") and cell.attack != WORST and cell.state != "attack_failed"
        if attacked and CONTROL_SURVIVES not in str(cell.flags).split():
            group = groups.setdefault((str(cell.track), str(cell.metric)), {})
            group.setdefault(str(cell.defense), []).append(float(str(cell.worst_known)))
    board = list[dict[str, Any]]()
    for (track, metric), group in groups.items():
        means = {defense: sum(known) / len(known) for defense, known in group.items()}
        full = {defense: mean for defense, mean in means.items() if not math.isnan(mean)}
        places = dict(zip(full, ranks(metric, list(full.values())), strict=True))
        for defense in sorted(means, key=lambda name: places.get(name, len(means) + 1)):
            numbers = {"rank": places.get(defense), "worst_known": full.get(defense)}
            board.append({"track": track, "metric": metric, "defense": defense, **numbers})
    return board


def _place(cell: Any) -> tuple[Any, ...]:
    return tuple(getattr(cell, name) for name in _PLACE)


def _worst_known(cell: Any, place: list[Any]) -> float:
    values = [rival.value for rival in place if _bound(rival) <= _bound(cell)]
    if pd.isna(cell.value) or cell.metric in ("CA", "CU"):
        return float(cell.value)
    return float(min(values) if cell.metric == "RA" else max(values))


def _bound(cell: Any) -> float:
    """How much the attack may change a pixel, in /255; anything if it has no eps."""
    return math.inf if pd.isna(cell.eps) else cell.eps
