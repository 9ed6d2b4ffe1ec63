"""One look for every long step: a bar with speed and time left in a terminal, a line now and then in a log file."""

import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_Item = TypeVar("_Item")
_SECONDS_BETWEEN_LINES = 20.0
console = Console(stderr=True)


def track(items: Iterable[_Item], label: str, total: int | None = None) -> Iterator[_Item]:
    """Iterate over ``items`` while showing how far it is and how long the rest will take.

    Processes that work side by side print lines, for they would draw their bars over each other's.

    Args:
        items: What to go through.
        label: A few words on the work, shown before the bar.
        total: Number of items, where ``items`` has no length.
    """
    count = total if total is not None else len(items) if isinstance(items, Sized) else None
    if console.is_terminal and multiprocessing.parent_process() is None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(TextColumn("{task.description}"), *columns, console=console, transient=True) as bar:
            yield from bar.track(items, total=count, description=label)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last > _SECONDS_BETWEEN_LINES:
            last = now
            left = f", about {(now - start) / done * (count - done):.0f} s left" if count else ""
            console.print(f"{label}: {done}/{count or '?'}{left}", highlight=False)
