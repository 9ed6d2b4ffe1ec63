"""Where a suite stands: what is done, what is under way, what came to nothing, and the command that makes the rest."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.config import Suite
from bench.evaluation.store import Store
from bench.overview.cells import CellState, cell_states, seconds_since_change
from bench.overview.models import checkpoint_states, defense_states, stage
from bench.paths import Paths
from bench.progress import console

__all__ = ["cell_states", "show_status"]
_COLOURS = {"present": "green", "running": "green", "stored": "green", "missing": "yellow", "partial": "yellow"}


def show_status(suite: Suite, paths: Paths, out: Console = console) -> bool:
    """Print counts per track, then everything that is not done with the command for it.

    Returns:
        Whether all cells are done, or cannot be.
    """
    states = cell_states(suite, paths)
    models = [*checkpoint_states(suite, paths).values(), *defense_states(suite, paths).values()]
    out.print(_counts(states))
    planned = [model for model in models if model.state == "not_implemented"]
    models = [model for model in models if model not in planned]
    ready = sum(model.state == "present" for model in models)
    out.print(f"\n{ready} of {len(models)} checkpoints and tuned defenses are ready", highlight=False)
    for model in models:
        if model.state != "present" or model.gate:
            _line(out, model.state, "", model.command or model.name)
        if model.gate or model.reason:
            _detail(out, model.gate or model.reason)
    undone = [state for state in states if state.state not in ("done", "not_applicable", "not_implemented")]
    out.print(f"\n{len(undone)} of {len(states)} cells are not done", highlight=False)
    for group in _groups(undone, paths):
        first, count = group[0], f"{len(group)} cell{'s' * (len(group) > 1)}"
        _line(out, first.state, count, remedy(first, paths) or stage_of(first, paths))
        for state in group if first.state != "missing" else ():
            told = ", ".join(part for part in (f"{state.images} images" * bool(state.images), state.reason) if part)
            _detail(out, f"{state.cell.name}: {told}")
    for reason, count in Counter(model.reason for model in planned).items():
        out.print(f"{count} checkpoints and defenses: {escape(reason)}", highlight=False)
    ages = [age for path in unattributed(paths, states) if (age := seconds_since_change(path)) is not None]
    if ages:
        out.print(f"\n{len(ages)} unfinished cells belong to other suites, older settings or --limit", highlight=False)
        out.print(f"(the last one changed {min(ages) / 60:.0f} minutes ago)", highlight=False)
    return not undone


def stage_of(state: CellState, paths: Paths) -> str:
    """The stage that makes the cell."""
    return stage(paths, "evaluate", state.track, state.cell.defense, state.cell.attack)


def remedy(state: CellState, paths: Paths) -> str:
    """The command that makes the cell, or makes it again; empty while it is being made."""
    command = f"dvc repro {stage_of(state, paths)}"
    if state.state == "running":
        return ""
    if state.state in ("failed", "timeout"):
        return f"dvc repro -f -s {stage_of(state, paths)}"
    if state.state == "diverged":
        return f"change tracks.{state.track}.defenses.{state.cell.defense} in {paths.suite}, then: {command}"
    if state.state == "attack_failed":
        return f"change checkpoints.{state.cell.checkpoint} in {paths.suite}, then: {command}"
    return command


def unattributed(paths: Paths, states: Iterable[CellState]) -> list[Path]:
    """Files of unfinished cells in the store that are none of ``states``."""
    known = {state.key for state in states}
    return [path for path in Store(paths.store).unfinished() if path.name.split(".")[0] not in known]


def _counts(states: list[CellState]) -> Table:
    """One row per track, one column per state that occurs."""
    standings = list(dict.fromkeys(["done", *(state.state for state in states)]))
    table = Table(box=None)
    for heading in ("track", "cells", *standings):
        table.add_column(heading, justify="left" if heading == "track" else "right")
    for track in dict.fromkeys(state.track for state in states):
        counts = Counter[str](state.state for state in states if state.track == track)
        table.add_row(escape(track), str(counts.total()), *(str(counts[name] or "") for name in standings))
    return table


def _groups(states: Iterable[CellState], paths: Paths) -> list[list[CellState]]:
    """The cells of one stage that are in the same state and need the same."""
    groups = dict[tuple[str, str, str], list[CellState]]()
    for state in states:
        groups.setdefault((stage_of(state, paths), state.state, remedy(state, paths)), []).append(state)
    return list(groups.values())


def _line(out: Console, state: str, count: str, text: str) -> None:
    """Never cut, so that the command can be copied."""
    colour = _COLOURS.get(state, "red")
    out.print(f"  [{colour}]{state:<13}[/] {count:<9} {escape(text)}", highlight=False, soft_wrap=True)


def _detail(out: Console, text: str) -> None:
    out.print(f"{'':26}{escape(text)}", highlight=False, soft_wrap=True)
