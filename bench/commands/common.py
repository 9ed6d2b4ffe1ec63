"""What verbs share: the suite they work on, names that must be known, and what they print of records."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.config import Suite, Track, load_suite
from bench.errors import UserError, unknown
from bench.paths import Paths, paths_for
from bench.progress import console

if TYPE_CHECKING:
    from bench.evaluation.record import Record

SuiteOption = Annotated[Path, typer.Option("--suite", help="The suite's benchmark.yaml.")]


def open_suite(suite: Path) -> tuple[Paths, Suite]:
    """Where things of a suite are, and the suite."""
    return paths_for(suite), load_suite(suite)


def track_of(suite: Suite, name: str) -> Track:
    """A track by name; a ``UserError`` if there is none."""
    refuse_unknown("track", name, suite.tracks)
    return suite.tracks[name]


def chosen(kind: str, name: str, known: Iterable[str]) -> list[str]:
    """The one that is named, or all if none is; a ``UserError`` if it is not known."""
    if name:
        refuse_unknown(kind, name, known)
    return [name] if name else list(known)


def refuse_unknown(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise a ``UserError`` that names the nearest one, if ``name`` is not known."""
    if name not in (names := list(known)):
        raise unknown(kind, name, names, "command line")


@contextmanager
def training_may_diverge() -> Generator[None]:
    """A loss that is not finite is told like any other mistake in the settings."""
    try:
        yield
    except FloatingPointError as error:
        raise UserError(str(error)) from error


def print_records(records: "Iterable[Record]") -> None:
    """One line per record: what it is about, its value and interval or why there is none, and its flags."""
    for record in records:
        cell = record.identity.cell
        interval = f"{record.metric} {record.value:.1f} % [{record.low:.1f}, {record.high:.1f}]" if record.n else ""
        told = f"{record.state} {interval or record.reason} {' '.join(record.flags)}"
        console.print(f"{cell.attack} on {cell.name}: {told}", highlight=False, markup=False)
