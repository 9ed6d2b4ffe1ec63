"""Where a suite's checkpoints and defense artefacts stand; read from their cards, without loading any model."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from bench.config import Suite
from bench.evaluation.record import Cell
from bench.paths import Paths
from bench.planned import Absent, reason_of


class Made(NamedTuple):
    """A checkpoint, or all artefacts of one defense on one checkpoint.

    Attributes:
        name: For people.
        state: ``attack_failed`` is a backdoor below its gate; ``begun`` is being made, or was interrupted.
        reason: For people.
        gate: What the strength gate measured, where there is one.
        command: What makes it; empty when present.
    """

    name: str
    state: Literal["present", "missing", "begun", "diverged", "attack_failed", "not_implemented"]
    reason: str = ""
    gate: str = ""
    command: str = ""

    @property
    def ended(self) -> bool:
        """Whether its stage has run, whatever came of it."""
        return self.state not in ("missing", "begun")


def checkpoint_states(suite: Suite, paths: Paths) -> dict[str, Made]:
    """Where each checkpoint stands."""
    absent = Absent(suite)
    return {
        name: _planned(f"checkpoint {name}", lacking)
        if (lacking := absent.checkpoint(name))
        else _checkpoint(paths, name)
        for name in suite.checkpoints
    }


def defense_states(suite: Suite, paths: Paths) -> dict[tuple[str, str, str], Made]:
    """Where each defense stands, by track, defense and checkpoint."""
    absent = Absent(suite)
    return {
        (track, defense, checkpoint): _planned(f"{track}: {defense} on {checkpoint}", lacking)
        if (lacking := absent.checkpoint(checkpoint) + absent.defense(track, defense))
        else _defended(paths, track, defense, checkpoint)
        for track, plan in suite.tracks.items()
        for defense in plan.defenses
        for checkpoint in plan.checkpoints
    }


def stage(paths: Paths, kind: str, *ids: str) -> str:
    """A stage as ``dvc repro`` takes it; that of a suite in a folder of its own has the folder before it.

    Args:
        paths: Of the suite, whose pipeline is the ``dvc.yaml`` beside it.
        kind: ``checkpoint``, ``defend`` or ``evaluate``.
        ids: What the stage makes: for the last two the track, and what is told apart in it. A pipeline has either one
            stage ``<kind>_<track>@<ids>`` for each, with as many ids as its matrix tells apart, or one
            ``<kind>@<track>`` for all.
    """
    home = paths.suite.parent
    first, *others = ids
    own = _stages(home / "dvc.yaml").get(f"{kind}_{first}")
    if own is None:
        name = f"{kind}@{first}"
    else:
        told_apart = "-".join(others[: len(own.get("matrix", ()))])
        name = f"{kind}_{first}@{told_apart}" if told_apart else f"{kind}_{first}"
    return name if home == Path() else f"{home / 'dvc.yaml'}:{name}"


def _stages(pipeline: Path) -> dict[str, Any]:
    """A pipeline's stages; empty where there is none that can be read."""
    try:
        return dict(yaml.safe_load(pipeline.read_text("utf-8"))["stages"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return {}


def artefact_of(suite: Suite, paths: Paths, track: str, cell: Cell) -> Path | None:
    """The card of the artefact that ``cell`` evaluates; None if it has not been tuned."""
    folder = paths.defended(track, cell.defense, cell.checkpoint)
    dataset = suite.tracks[track].tuned_on(cell.defense, cell.dataset)
    # Which of the two names an artefact has depends on what its defense tunes on; a folder holds one kind only.
    places = [folder / f"{scope}.seed{cell.seed}" / "artefact.json" for scope in (dataset, "any")]
    return next((place for place in places if place.exists()), None)


def _planned(label: str, lacking: list[str]) -> Made:
    return Made(label, "not_implemented", reason_of(lacking))


def _checkpoint(paths: Paths, name: str) -> Made:
    folder, label = paths.checkpoint(name), f"checkpoint {name}"
    command = f"dvc repro {stage(paths, 'checkpoint', name)}"
    card = _json(folder / "checkpoint.json")
    if card is None:
        return Made(label, _absent(folder), command=command)
    gate = card["gate"]
    if gate is None:
        return Made(label, "present")
    verdict = "passed" if gate["passed"] else "failed"
    control = f"on the clean model {gate['clean_asr']:.1f} % and {gate['clean_ca']:.1f} %"
    told = f"gate {verdict}, ASR {gate['asr']:.1f} %, CA {gate['ca']:.1f} %; {control}"
    for key, asr in gate.get("keys", {}).items():
        told += f"; ASR with {key} key {asr:.1f} %"
    if gate["passed"]:
        return Made(label, "present", gate=told)
    change = f"change checkpoints.{name} in {paths.suite}, then: {command}"
    return Made(label, "attack_failed", gate=told, command=change)


def _defended(paths: Paths, track: str, defense: str, checkpoint: str) -> Made:
    folder, label = paths.defended(track, defense, checkpoint), f"{track}: {defense} on {checkpoint}"
    command = f"dvc repro {stage(paths, 'defend', track, defense)}"
    cards = {path.parent.name: _json(path) or {} for path in sorted(folder.glob("*/artefact.json"))}
    if not cards:
        return Made(label, _absent(folder), command=command)
    undone = {name: card for name, card in cards.items() if card.get("state") != "done"}
    if not undone:
        return Made(label, "present")
    reason = "; ".join(f"{name}: {card.get('reason', 'the card is damaged')}" for name, card in undone.items())
    change = f"change tracks.{track}.defenses.{defense} in {paths.suite}, then: {command}"
    return Made(label, "diverged", reason, command=change)


def _absent(folder: Path) -> Literal["missing", "begun"]:
    return "begun" if folder.with_name(f".{folder.name}.partial").exists() else "missing"


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
