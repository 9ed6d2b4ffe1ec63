"""Time and memory before a run: what a suite still has to do, times how fast this machine is."""

from itertools import groupby
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.config import Suite
from bench.overview.meter import Meter, Stopwatch
from bench.overview.plan import count_stages
from bench.overview.reckon import Line, Reckoner
from bench.paths import Paths
from bench.progress import console

_ASSUMED = (
    "This is an estimate, from a few batches on this machine as busy as it is now, with random weights.",
    "Fetching data, writing tables and DVC itself (under a second per stage) are left out.",
    "Every image is taken to be attacked; those that are misclassified anyway are not, so attacks often take less.",
    "Defended models are taken to be as fast as their base; prompts and refiners make them slower.",
    "Peak memory is that of the measuring process up to that line, with one batch at a time.",
)
# Seconds on a core that has nothing else to do.
_START_S = 4.5


class Estimate(NamedTuple):
    """All lines, and what they rest on."""

    lines: list[Line]
    assumptions: list[str]

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(line.seconds for line in self.lines)


def estimate(suite: Suite, paths: Paths, meter: Meter | None = None, survivors: float = 0.3) -> Estimate:
    """What a run of the suite would take from where it stands.

    Args:
        suite: The benchmark.
        paths: Where everything is.
        meter: Where speeds come from; this machine if not given.
        survivors: Share of the images taken to be robust after the first part of AutoAttack.

    Raises:
        UserError: An item or an option of it is unknown.
    """
    reckoner = Reckoner(suite, paths, meter or Stopwatch(), survivors)
    lines = [*reckoner.checkpoints(), *reckoner.defenses(), *reckoner.attacks()]
    share = f"AutoAttack: {survivors:.0%} of the images are taken to be robust after APGD-CE and to need all the rest."
    return Estimate(lines, [*_ASSUMED, *_starts(paths), share, *dict.fromkeys(reckoner.notes)])


def _starts(paths: Paths) -> list[str]:
    """How long the stages of the suite's pipeline take to start."""
    pipeline = paths.suite.with_name("dvc.yaml")
    try:
        stages = count_stages(pipeline, paths.suite)
    except (FileNotFoundError, KeyError):  # there is none, or it is that of another suite
        return []
    start = f"The start of each stage (importing torch and the rest, about {_START_S:g} s) is left out"
    return [f"{start}; for all {stages} stages of {pipeline} that is {in_words(stages * _START_S)}."]


def show_estimate(result: Estimate, out: Console = console) -> None:
    """Print an estimate, group by group, and its assumptions."""
    table = Table(box=None)
    for heading in ("stages", "left", "done", "time", "peak memory"):
        table.add_column(heading, justify="left" if heading == "stages" else "right")
    for stage, group in groupby(result.lines, lambda line: line.stage):
        lines = list(group)
        table.add_row(f"[bold]{escape(stage)}", "", "", f"[bold]{in_words(sum(line.seconds for line in lines))}", "")
        for name, left, done, seconds, memory in (line[1:] for line in lines):
            table.add_row(f"  {escape(name)}", str(left), str(done), in_words(seconds), f"{memory:,.0f} MB")
    table.add_row("[bold]all", "", "", f"[bold]{in_words(result.seconds)}", "")
    out.print(table)
    for assumption in result.assumptions:
        out.print(f"- {escape(assumption)}", highlight=False)


def in_words(seconds: float) -> str:
    """A duration for people."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
