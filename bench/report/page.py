"""The report: one static page of a suite's boards, plots, sample images and gaps, which works from a file.

Jinja2 fills the page, because it escapes all text by itself. DataTables makes the boards sortable and filterable by
mouse and keyboard; it comes from itables, which ships it whole, for use without a network, and needs no other package.
"""

import base64
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

from bench.config import Suite
from bench.files import write_text
from bench.leaderboard.markdown import meaning
from bench.leaderboard.verify import read_cells
from bench.overview.models import stage
from bench.paths import Paths
from bench.report.boards import boards, unmeasured
from bench.report.details import command, details, uncollected
from bench.report.layout import layout
from bench.report.plots import PlotGroup, analysis_group, plot_groups
from bench.report.samples import sample_strips

_HERE = Path(__file__).parent
_ROWS = 25
_FILTER = {"extend": "dropdown", "icon": "search", "content": ["searchList"], "text": "Filter"}
_TABLES = {
    "autoWidth": False,
    "order": [],
    "pageLength": _ROWS,
    "columnDefs": [{"targets": "filter", "columnControl": [_FILTER]}],
    "layout": {"topStart": "search", "topEnd": None, "bottomStart": "info", "bottomEnd": "paging"},
    "language": {"search": "Search", "info": "_START_ to _END_ of _TOTAL_", "infoFiltered": "(of _MAX_ in all)"},
}
_CHARTS = """
for (const figure of document.querySelectorAll("[data-spec]"))
  vegaEmbed(figure, JSON.parse(figure.dataset.spec), {renderer: "svg", actions: false, mode: "vega-lite"});
"""


class Finding(NamedTuple):
    """What an analysis left beside the boards.

    Attributes:
        name: Its id.
        title: Its heading.
        drawn: Charts of its numbers, where their kind is known; else its picture is shown.
        uri: Its picture as a data URI; empty if it has none.
        text: Its table and how to read it, as HTML; empty if it has none.
    """

    name: str
    title: str
    drawn: PlotGroup | None
    uri: str
    text: str


class Gap(NamedTuple):
    """Something that is missing, and what makes it, where anything does."""

    what: str
    state: str
    number: int
    command: str


def write_report(suite: Suite, paths: Paths, out: Path, samples: int) -> None:
    """Write the page.

    Args:
        suite: The benchmark.
        paths: ``cells.csv`` must be there; records, data and checkpoints make the page richer where they are.
        out: The page.
        samples: Sample images for each checkpoint and dataset; 0 for none.

    Raises:
        UserError: ``cells.csv`` is missing, or a file is damaged.
    """
    cells = read_cells(paths.boards / "cells.csv")
    found = boards(cells, suite, paths)
    strips, unsampled = sample_strips(suite, paths, samples) if samples else ([], [])
    groups = plot_groups(cells, suite)
    findings = [one for name in suite.analyses if (one := _finding(suite, name, paths))]
    page = _template().render(
        suite=suite,
        source=paths.suite.as_posix(),
        cells=cells,
        boards=found,
        layouts={name: layout(suite, name, cells, paths) for name in suite.tables},
        details={
            (board.name, at): details(line, suite, paths) for board in found for at, line in enumerate(board.lines)
        },
        flags={flag: meaning(flag) for flag in sorted({flag for text in cells["flags"] for flag in text.split()})},
        groups=groups,
        findings=findings,
        strips=strips,
        gaps=list(_gaps(cells, suite, paths)),
        unsampled=unsampled,
        rows=_ROWS,
        tables=_TABLES,
        style=(_HERE / "style.css").read_text("utf-8"),
        table_style=_bundle("css"),
        table_script=_data_uri("text/javascript", _bundle("js").encode()),
        chart_script=vl_convert.javascript_bundle(_CHARTS) if groups or any(one.drawn for one in findings) else "",
    )
    write_text(out, page)


def _template() -> Any:
    # StrictUndefined, so that a slip in the template is an error and not a gap in the page.
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["meaning"] = meaning
    return environment.get_template("page.html")


def _bundle(kind: str) -> str:
    """DataTables with its extensions."""
    return (resources.files("itables") / "html" / f"dt_bundle.{kind}").read_text("utf-8")


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _finding(suite: Suite, name: str, paths: Paths) -> Finding | None:
    """What the analysis ``name`` left; None if it left nothing."""
    numbers, picture, text = (paths.boards / f"{name}{ending}" for ending in (".csv", ".png", ".md"))
    drawn = analysis_group(suite.analyses[name].title, numbers) if numbers.exists() else None
    if drawn is None and not picture.exists() and not text.exists():
        return None
    uri = _data_uri("image/png", picture.read_bytes()) if picture.exists() else ""
    return Finding(name, suite.analyses[name].title, drawn, uri, _as_html(text))


def _as_html(path: Path) -> str:
    """A Markdown file without its heading; what looks like HTML in it stays text."""
    if not path.exists():
        return ""
    body = path.read_text("utf-8").partition("\n")[2]
    return MarkdownIt("commonmark", {"html": False}).enable("table").render(body)


def _gaps(cells: pd.DataFrame, suite: Suite, paths: Paths) -> Iterator[Gap]:
    """Cells without a number, one line for each stage and state; then published numbers without a cell."""
    counted = dict[tuple[str, str, str], int]()
    # Where a question does not apply, nothing is missing.
    for cell in cells[~cells["state"].isin(["done", "not_applicable"])].itertuples():
        what = f"{cell.defense} under {cell.attack} ({cell.track})"
        key = what, str(cell.state), command(cell, paths)
        counted[key] = counted.get(key, 0) + 1
    for track, cell in uncollected(cells, suite):
        what = f"{cell.defense} under {cell.attack} ({track})"
        key = what, "not collected", f"dvc repro {stage(paths, 'evaluate', track, cell.defense, cell.attack)}"
        counted[key] = counted.get(key, 0) + 1
    for (what, state, make), count in counted.items():
        yield Gap(what, state, count, make)
    for name in suite.tables:
        if count := unmeasured(name, paths):
            yield Gap(f"published numbers of {name}", "not measured", count, "")
