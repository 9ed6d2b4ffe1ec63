"""Where the cells of a suite stand.

Finished stages are read from ``results``. Only where a stage is half done is torch loaded: its cells' keys are computed
then, to find them in the cell store.
"""

import time
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from bench.config import Suite
from bench.errors import UserError
from bench.evaluation.cells import cells_of
from bench.evaluation.record import Cell, Identity, Record, State
from bench.evaluation.store import Store, key_of
from bench.items import source_hash
from bench.overview.models import artefact_of
from bench.paths import Paths
from bench.planned import Absent, reason_of

Standing = Literal[State, "stored", "running", "partial", "stale", "not_implemented"]
_RUNNING_WITHIN_S = 120.0


class CellState(NamedTuple):
    """Where one cell stands.

    Attributes:
        track: Which track asks for it.
        cell: Which number.
        state: That of its record, or ``stored`` (in the cell store, but its stage has not ended), ``running``,
            ``partial`` (some images, and nobody at work), ``stale`` (made with other settings), ``missing``, or
            ``not_implemented`` (needs something that the suite has as planned).
        reason: For people.
        images: How many images are done, while there is no record.
        key: Its key in the cell store, where that was needed.
    """

    track: str
    cell: Cell
    state: Standing
    reason: str = ""
    images: int = 0
    key: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has been computed, whatever came of it."""
        return self.state not in ("missing", "partial", "running", "stale")


def cell_states(suite: Suite, paths: Paths) -> list[CellState]:
    """Where every cell of the suite stands, in the suite's order."""
    absent = Absent(suite)
    return [
        CellState(track, cell, "not_implemented", reason_of(lacking))
        if (lacking := absent.cell(track, cell))
        else _state(suite, track, cell, paths)
        for track, plan in suite.tracks.items()
        for defense in plan.defenses
        for attack in plan.attacks
        for cell in cells_of(suite, track, defense, attack)
    ]


def seconds_since_change(path: Path) -> float | None:
    """Age of the file's last change; None if there is no such file (any more: evaluations may be running)."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None


def _state(suite: Suite, track: str, cell: Cell, paths: Paths) -> CellState:
    record = _read(paths.evaluated(track, cell.defense, cell.attack) / f"{cell.name}.json")
    if record is not None:
        stale = _stale(record.identity, suite, cell)
        return CellState(track, cell, "stale" if stale else record.state, stale or record.reason)
    artefact = artefact_of(suite, paths, track, cell)
    key = _key(suite, cell, artefact, paths) if artefact and (paths.store / "cells").exists() else ""
    return _in_store(track, cell, key, paths) if key else CellState(track, cell, "missing")


def _in_store(track: str, cell: Cell, key: str, paths: Paths) -> CellState:
    """Where a cell stands whose stage has not ended."""
    store, place = Store(paths.store), paths.store / "cells" / key[:2]
    if store.get(key) is not None:
        return CellState(track, cell, "stored", "computed; its stage has not ended", key=key)
    still = seconds_since_change(place / f"{key}.part.jsonl")
    images = 0 if still is None else sum(len(batch.rows) for batch in store.batches(key).values())
    if still is not None and still < _RUNNING_WITHIN_S:
        return CellState(track, cell, "running", images=images, key=key)
    failed = _read(place / f"{key}.failed.json")
    if failed is not None:
        return CellState(track, cell, failed.state, failed.reason, images, key)
    return CellState(track, cell, "missing" if still is None else "partial", images=images, key=key)


def _key(suite: Suite, cell: Cell, artefact: Path, paths: Paths) -> str:
    """The cell's key as the evaluator computes it; empty where something that it depends on is missing."""
    from bench.datasets.store import read_manifest
    from bench.defenses.artefact import ArtefactCard
    from bench.evaluation.adversary import load_attacker

    try:
        card = ArtefactCard.model_validate_json(artefact.read_text("utf-8"))
        attacker = load_attacker(suite, cell.attack, paths)
        manifest = read_manifest(paths.data, cell.dataset)
    except (UserError, ValidationError):
        return ""
    identity = Identity(
        cell=cell,
        checkpoint=card.checkpoint,
        artefact=card.digest,
        manifest=manifest.digest,
        attack=source_hash(attacker.module),
        attack_options=attacker.options.model_dump(mode="json"),
        surrogates={surrogate.name: surrogate.digest for surrogate in attacker.surrogates},
        images=suite.attacks[cell.attack].sample(cell.dataset),
        protocol=suite.protocol,
    )
    return key_of(identity)


def _stale(identity: Identity, suite: Suite, cell: Cell) -> str:
    """What has changed in the suite since the record was made, as far as that shows without loading any model."""
    spec, kept = suite.attacks[cell.attack], identity.attack_options
    changed = {
        "protocol": identity.protocol != suite.protocol,
        f"attacks.{cell.attack}.threat_model": identity.cell.threat_model != cell.threat_model,
        f"attacks.{cell.attack}.surrogates": identity.surrogates.keys() != set(spec.surrogates),
        f"attacks.{cell.attack}.images": identity.images != spec.sample(cell.dataset),
        f"attacks.{cell.attack}.options": any(
            isinstance(value, int | float) and kept.get(name) != value for name, value in spec.options.items()
        ),
    }
    keys = ", ".join(key for key, differs in changed.items() if differs)
    return f"the suite has changed since: {keys}" if keys else ""


def _read(path: Path) -> Record | None:
    try:
        return Record.model_validate_json(path.read_text("utf-8")) if path.exists() else None
    except ValidationError:
        return None
