"""The worst case over attacks, from per-sample outcomes, and whether the control survives an attack.

An image counts as robust only if every attack failed on it, so the worst case can be lower than each attack alone.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from bench.config import Metric, Suite
from bench.errors import UserError
from bench.evaluation.metrics import count, outcomes, wilson
from bench.evaluation.record import Cell, Outcome, Record

WORST = "worst"


class Result(NamedTuple):
    """A cell and what became of it.

    Attributes:
        track: Which track asks for the cell.
        cell: Which number.
        metric: What the number counts.
        record: The result; None if there is none.
        submission: Name of the submission that it is from, if any.
        stronger: Whether it is a submitted evaluation of a row by an attack of its own.
        lacking: What of it is not implemented yet, for people; empty if all is.
    """

    track: str
    cell: Cell
    metric: Metric | Literal[""]
    record: Record | None
    submission: str = ""
    stronger: bool = False
    lacking: str = ""

    @property
    def done(self) -> bool:
        """Whether there is a number."""
        return self.record is not None and self.record.state == "done"

    @property
    def state(self) -> str:
        """What became of it."""
        return self.record.state if self.record else "not_implemented" if self.lacking else "missing"


class Scene(NamedTuple):
    """An attack in a place: where every defense is measured beside the control."""

    checkpoint: str
    dataset: str
    split: str
    attack: str


def scene_of(cell: Cell) -> Scene:
    """Where ``cell`` is measured."""
    return Scene(cell.checkpoint, cell.dataset, cell.split, cell.attack)


def worst_results(results: Sequence[Result]) -> list[Result]:
    """One result per seed with the worst case over the white-box attacks; none if fewer than two are asked for.

    A submitted evaluation counts whatever it knew of the model, for who knows more can do the same.
    Where two are asked for but fewer are done, the result has the state of the first that is not.

    Args:
        results: All results of one defense on one checkpoint, dataset and split.
    """
    attacked = [
        result
        for result in results
        if result.metric == "RA" and (result.cell.threat_model == "white_box" or result.stronger)
    ]
    worst = list[Result]()
    for seed in dict.fromkeys(result.cell.seed for result in attacked):
        group = [result for result in attacked if result.cell.seed == seed]
        if len(group) > 1:
            cell = group[0].cell.model_copy(update={"attack": WORST, "threat_model": "white_box"})
            lacking = next((result.lacking for result in group if not result.done), "")
            worst.append(Result(group[0].track, cell, "RA", _worst_record(group, cell), lacking=lacking))
    return worst


def worst_case(records: Sequence[Record], cell: Cell) -> Record:
    """The record of ``cell``: an image is a hit only if it is one in all ``records``; over the images they share.

    Args:
        records: Finished records of robust accuracy, of the same model and dataset.
        cell: What the result is about.

    Raises:
        UserError: The records are not of the same model and dataset: some are out of date.
    """
    _check_same_basis(records, cell)
    hits = [_hits_by_row(record) for record in records]
    shared = [row for row in hits[0] if all(row in other for other in hits)]
    counted = count([all(hit[row] for hit in hits) for row in shared])
    interval = wilson(counted)
    eps = [options["eps"] for record in records if "eps" in (options := record.identity.attack_options)]
    largest = {"eps": max(eps)} if eps else {}
    return records[0].model_copy(
        update={
            "identity": records[0].identity.model_copy(update={"cell": cell, "attack": "", "attack_options": largest}),
            "n": counted.total,
            "hits": counted.hits,
            "value": counted.percent if shared else None,
            "low": interval.low if shared else None,
            "high": interval.high if shared else None,
            "flags": tuple(sorted({flag for record in records for flag in record.flags})),
            "outcome": None,
            "cost": None,
        }
    )


def surviving_controls(results: Iterable[Result], suite: Suite) -> set[Scene]:
    """Where the undefended control keeps more robust accuracy than the protocol allows.

    A grey-box attack is made on the control itself; what it leaves there is too much for the same reason. An attack by
    transfer never saw the control, and need not fell it.
    """
    return {
        scene_of(cell)
        for _, cell, metric, record, *_ in results
        if cell.defense == suite.control
        and cell.threat_model in ("white_box", "grey_box")
        and metric == "RA"
        and record is not None
        and record.value is not None
        and record.value > suite.protocol.control_ceiling
    }


def _worst_record(group: Sequence[Result], cell: Cell) -> Record | None:
    done = [result.record for result in group if result.record is not None and result.done]
    undone = [result for result in group if not result.done]
    if len(done) > 1:
        names = ", ".join(f"{result.cell.attack} ({result.state})" for result in undone)
        return worst_case(done, cell).model_copy(update={"reason": f"without {names}" if names else ""})
    record = undone[0].record
    return record and record.model_copy(
        update={"identity": record.identity.model_copy(update={"cell": cell, "attack": "", "attack_options": {}})}
    )


def _hits_by_row(record: Record) -> dict[int, bool]:
    outcome = record.outcome or Outcome(rows=(), labels=(), predictions=(), target=None)
    hits = outcomes(record.metric, outcome.predictions, outcome.labels, outcome.target)
    return {row: bool(hit) for row, hit in zip(outcome.rows, hits, strict=True)}


def _check_same_basis(records: Sequence[Record], cell: Cell) -> None:
    def basis(record: Record) -> tuple[str, str, str, int]:
        identity = record.identity
        return identity.checkpoint, identity.artefact, identity.manifest, identity.protocol.version

    if len({basis(record) for record in records}) > 1:
        attacks = ", ".join(record.identity.cell.attack for record in records)
        raise UserError(
            f"{cell.defense}, {cell.name}: the records under {attacks} were made with different models, images or "
            "protocol versions, so some are out of date; evaluate this defense again under each of them"
        )
