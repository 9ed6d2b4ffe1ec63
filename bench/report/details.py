"""What the report tells about one cell: how it was counted, with which settings, where its record is, how to run it."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import ValidationError

from bench.config import Suite
from bench.evaluation.cells import cells_of
from bench.evaluation.record import Cell, Record
from bench.leaderboard.worst import WORST
from bench.overview.models import stage
from bench.paths import Paths
from bench.report.boards import Line

_HASHES = ("checkpoint_hash", "artefact_hash", "manifest_hash", "attack_hash")


def details(line: Line, suite: Suite, paths: Paths) -> list[tuple[str, str]]:
    """Terms and what is to be said of each, for one line of a board.

    Args:
        line: The line.
        suite: The benchmark, for the settings.
        paths: Where the records are; they need not be there.
    """
    cell = line.cell
    told = [(_seed(line, one), _counted(one)) for one in line.cells]
    told += [
        ("Defense settings", _defense_settings(cell, suite)),
        ("Attack settings", _attack_settings(cell, suite)),
        ("Tuned parameters", cell.tuned_parameters),
        ("Passes per image", _passes(cell)),
        ("Hashes", ", ".join(f"{name.removesuffix('_hash')} {getattr(cell, name)}" for name in _HASHES)),
        ("Protocol version", cell.protocol_version),
    ]
    if cell.attack == WORST:
        attacks = [name for name in suite.tracks[cell.track].attacks if suite.attacks[name].threat_model == "white_box"]
        told.append(("Derived from", f"the records of each image under {', '.join(attacks)}"))
    for record in record_paths(line, paths):
        told += [("Record", str(record)), ("Computed", _computed(record))]
    told.append(("Run it again", command(cell, paths)))
    return [(term, text) for term, text in told if text]


def command(cell: Any, paths: Paths) -> str:
    """What makes a line of ``cells.csv``, with all that it needs."""
    if cell.attack == WORST:
        return f"bench collect --suite {paths.suite}"
    return f"dvc repro {_stage(paths, cell.track, cell.defense, cell.attack)}"


def record_paths(line: Line, paths: Paths) -> list[Path]:
    """Where the records of a line are, one for each seed; the worst case has none of its own."""
    if line.cell.attack == WORST:
        return []
    return [_record_path(cell, paths) for cell in line.cells]


def uncollected(cells: pd.DataFrame, suite: Suite) -> list[tuple[str, Cell]]:
    """Track and cell of what the suite asks for and ``cells.csv`` does not hold."""
    ids = ["track", "defense", "checkpoint", "dataset", "split", "attack"]
    held = {(*row[:-1], int(row[-1])) for row in cells[[*ids, "seed"]].itertuples(index=False, name=None)}
    wanted = (
        (track, cell)
        for track, plan in suite.tracks.items()
        for defense in plan.defenses
        for attack in plan.attacks
        for cell in cells_of(suite, track, defense, attack)
    )
    return [
        (track, cell)
        for track, cell in wanted
        if (track, cell.defense, cell.checkpoint, cell.dataset, cell.split, cell.attack, cell.seed) not in held
    ]


def _record_path(cell: Any, paths: Paths) -> Path:
    name = f"{cell.checkpoint}.{cell.dataset}.{cell.split}.seed{int(cell.seed)}"
    return paths.evaluated(cell.track, cell.defense, cell.attack) / f"{name}.json"


def _seed(line: Line, cell: Any) -> str:
    return "Measured" if len(line.cells) == 1 else f"Measured, seed {int(cell.seed)}"


def _counted(cell: Any) -> str:
    if cell.state != "done":
        return f"{cell.state}: {cell.reason}" if cell.reason else cell.state
    value = "" if pd.isna(cell.value) else f" = {cell.value:.2f} % [{cell.low:.2f}, {cell.high:.2f}]"
    return f"{int(cell.hits)} of {int(cell.n)} images{value}" + (f"; {cell.reason}" if cell.reason else "")


def _defense_settings(cell: Any, suite: Suite) -> str:
    spec = suite.tracks[cell.track].defenses.get(cell.defense)
    return _plain(spec.model_dump_json(exclude_defaults=True)) if spec else ""


def _attack_settings(cell: Any, suite: Suite) -> str:
    spec = suite.attacks.get(cell.attack)
    return _plain(spec.model_dump_json(exclude_defaults=True, exclude={"threat_model"})) if spec else ""


@cache
def _plain(settings: str) -> str:
    """Settings, as JSON, in one line of YAML; what is not named has the default of its file."""
    text = yaml.safe_dump(json.loads(settings), default_flow_style=True, sort_keys=False, width=10**6).strip()
    return text[1:-1] or "defaults"


@cache
def _stage(paths: Paths, track: str, defense: str, attack: str) -> str:
    # Many cells share a stage, and the pipeline is read for each.
    return stage(paths, "evaluate", track, defense, attack)


def _passes(cell: Any) -> str:
    if not cell.forwards_per_image:
        return ""
    return f"{cell.forwards_per_image} forward, {cell.backwards_per_image} backward"


def _computed(path: Path) -> str:
    """What a record says about its making; empty where it is not there."""
    try:
        record = Record.model_validate_json(path.read_text("utf-8")) if path.exists() else None
    except (ValidationError, UnicodeDecodeError):
        return "this record is damaged"
    if record is None or record.cost is None:
        return ""
    made, cost = record.provenance, record.cost
    return f"{cost.wall_s:g} s, {cost.images_per_s:g} images/s on {made.device}, commit {made.commit[:12]}"
