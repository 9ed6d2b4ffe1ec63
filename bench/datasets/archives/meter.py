"""How far downloads are: a bar with speed for each file in a terminal, a line now and then in a log."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from bench.datasets.archives.download import SourceError
from bench.progress import console

_SECONDS_BETWEEN_LINES = 20.0


class Meter:
    """Shared by the downloads of one dataset."""

    def __init__(self, dataset: str) -> None:
        """Show nothing yet."""
        self._dataset, self._stopped = dataset, False
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        shown = console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"), *columns, console=console, transient=True, disable=not shown
        )

    def __enter__(self) -> "Meter":
        """Start the bars."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bars away."""
        self._bars.stop()

    def stop(self) -> None:
        """End all downloads at their next block; their parts are kept."""
        self._stopped = True

    @contextmanager
    def of(self, name: str) -> Generator[Callable[[int, int], None]]:
        """A bar for one file, moved by calls with the bytes so far and in all."""
        label = f"{self._dataset}/{name}"
        task = self._bars.add_task(label, total=None)
        start = last = time.monotonic()
        first = -1

        def advance(have: int, total: int) -> None:
            nonlocal last, first
            if self._stopped:
                raise SourceError(f"{label}: stopped")
            self._bars.update(task, completed=have, total=total or None)
            first, now = have if first < 0 else first, time.monotonic()
            if self._bars.disable and now - last > _SECONDS_BETWEEN_LINES:
                last = now
                speed = (have - first) / (now - start) / 1e6
                console.print(f"{label}: {have / 1e6:.0f}/{total / 1e6:.0f} MB, {speed:.1f} MB/s", highlight=False)

        try:
            yield advance
        finally:
            self._bars.remove_task(task)
