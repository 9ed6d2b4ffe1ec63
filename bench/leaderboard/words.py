"""How a position is written for people."""

from bench.leaderboard.pivot import Entry
from bench.leaderboard.position import Position


def written(position: Position, decimals: int) -> str:
    """The measured value with its interval or deviation; with the published one and the gap where the paper has one."""
    measured = _measured(position.entry, decimals)
    if position.published is None:
        return measured
    gap = "" if position.gap is None else f", gap {position.gap:+.{decimals}f}"
    return f"{measured}; paper {position.published}{gap}"


def _measured(entry: Entry, decimals: int) -> str:
    if entry.state != "done":
        return entry.state
    value = f"{entry.mean:.{decimals}f}"
    if entry.deviation is not None:
        return f"{value} ± {entry.deviation:.{decimals}f}"
    if entry.interval is None:
        return value
    return f"{value} [{entry.interval.low:.{decimals}f}, {entry.interval.high:.{decimals}f}]"
