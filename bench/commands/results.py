"""Verbs that turn records into boards, tables, figures and pages, and hold them against others."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.commands.common import SuiteOption, open_suite, refuse_unknown
from bench.paths import DEFAULT_SUITE
from bench.progress import console


def collect(
    suite: SuiteOption = DEFAULT_SUITE,
    committed: Annotated[bool, typer.Option(help="From the records in git, instead of those in results.")] = False,
) -> None:
    """Gather all records, and what was submitted, into cells.csv."""
    from bench.leaderboard.collect import write_cells

    paths, loaded = open_suite(suite)
    write_cells(loaded, paths, committed=committed)


def table(name: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Write one table from cells.csv, as CSV, Markdown and LaTeX."""
    from bench.leaderboard.table import write_table

    paths, loaded = open_suite(suite)
    refuse_unknown("table", name, loaded.tables)
    write_table(loaded, name, paths)


def analyse(
    name: str,
    suite: SuiteOption = DEFAULT_SUITE,
    redraw: Annotated[bool, typer.Option("--redraw", help="Draw again from the CSV, without measuring.")] = False,
) -> None:
    """Measure one figure or analysis and write its CSV, with its picture or Markdown table."""
    from bench.analyses.run import analyse as run

    paths, loaded = open_suite(suite)
    refuse_unknown("analysis", name, loaded.analyses)
    for path in run(loaded, name, paths, redraw=redraw):
        console.print(str(path), highlight=False)


def report(
    suite: SuiteOption = DEFAULT_SUITE,
    out: Annotated[Path | None, typer.Option(help="The page; report.html beside the boards if not given.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Sample images per checkpoint and dataset; 0 for none.")] = 6,
) -> None:
    """Write one page with all boards, plots, sample images and gaps; it works from a file, without a network."""
    from bench.report.libraries import check_libraries

    check_libraries()
    from bench.report.page import write_report

    paths, loaded = open_suite(suite)
    page = out or paths.boards / "report.html"
    write_report(loaded, paths, page, samples)
    console.print(f"{page}: {page.stat().st_size / 1e6:.1f} MB", highlight=False)


def verify(
    committed: Annotated[Path, typer.Argument(help="The cells.csv to agree with, such as the one that git holds.")],
    others: Annotated[
        list[Path] | None, typer.Argument(help="Cells of the same suite on other machines, which widen the intervals.")
    ] = None,
    suite: SuiteOption = DEFAULT_SUITE,
) -> None:
    """Check that every value in cells.csv lies inside the intervals of another one; exit code 1 if not."""
    from bench.leaderboard.verify import read_cells, verify_boards

    expected, elsewhere = read_cells(committed), [read_cells(path) for path in others or ()]
    disagreements = verify_boards(expected, read_cells(open_suite(suite)[0].boards / "cells.csv"), elsewhere)
    for disagreement in disagreements:
        console.print(disagreement, highlight=False)
    console.print(f"{len(expected) - len(disagreements)} of {len(expected)} cells agree with {committed}")
    if disagreements:
        sys.exit(1)
