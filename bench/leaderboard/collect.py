"""From records to ``cells.csv``: one row for every cell that the suite asks for, and for what is derived from cells.

The file holds nothing that differs between two runs with the same results: no time, date, commit or machine.
"""

import csv
import io
from collections.abc import Iterable
from itertools import groupby
from typing import Literal, NamedTuple

from bench.config import AttackSpec, Metric, Suite
from bench.errors import UserError
from bench.evaluation.cells import cells_of
from bench.evaluation.record import Cell, Identity, Record
from bench.files import write_text
from bench.items import load_item
from bench.leaderboard.records import Key, commit_records, committed_records, evaluated_records
from bench.leaderboard.submissions.merge import Submitted, merge
from bench.leaderboard.submissions.read import read_submissions
from bench.leaderboard.worst import WORST, Result, Scene, scene_of, surviving_controls, worst_results
from bench.lvlm.room import is_lvlm_track
from bench.paths import Paths
from bench.planned import Absent, reason_of

CONTROL_SURVIVES = "control_survives"
_HASH_LENGTH = 12


class Row(NamedTuple):
    """One line of ``cells.csv``, as text; what has no number is empty.

    Percent have four decimals, eps is in /255, flags are separated by spaces, hashes are cut to twelve characters;
    ``submission`` names the submission that the number is from.
    """

    track: str
    defense: str
    checkpoint: str
    dataset: str
    split: str
    attack: str
    threat_model: str
    eps: str
    seed: str
    metric: str
    state: str
    reason: str
    n: str
    hits: str
    value: str
    low: str
    high: str
    flags: str
    tuned_parameters: str
    poisoned: str
    poison_rate: str
    forwards_per_image: str
    backwards_per_image: str
    checkpoint_hash: str
    artefact_hash: str
    manifest_hash: str
    attack_hash: str
    protocol_version: str
    submission: str


def write_cells(suite: Suite, paths: Paths, *, committed: bool = False) -> None:
    """Gather all records of a suite, and what was submitted, into ``cells.csv``.

    Args:
        suite: Which cells there should be; one without a record becomes a row with the state ``missing``, or
            ``not_implemented`` where it needs something that is planned only.
        paths: Where the records are and where the boards go.
        committed: Read the committed records; otherwise read those of the evaluations and commit them.

    Raises:
        UserError: A record is damaged, is of another cell than its file's name says, was made with ``--limit``, or does
            not belong together with the others of its worst case; a submission is damaged; or an attack has the name of
            the derived rows.
    """
    if WORST in suite.attacks:
        raise UserError(f"{paths.suite}: attacks.{WORST}: this name is kept for the worst case over attacks; rename it")
    own = committed_records(suite, paths) if committed else evaluated_records(suite, paths)
    submitted = merge(suite, read_submissions(paths.submissions))
    results = _with_worst(_results(submitted.suite, own, submitted, str(paths.suite)))
    surviving = surviving_controls(results, suite)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(_row(result, surviving, submitted.suite) for result in results)
    if not committed:
        commit_records(own, paths)
    write_text(paths.boards / "cells.csv", text.getvalue())


def _results(suite: Suite, own: dict[Key, Record], submitted: Submitted, where: str) -> list[Result]:
    """What became of each cell, in the suite's order, submitted attacks after the suite's own."""
    records = own | {key: sent.record for key, sent in submitted.records.items()}
    wanted = list[Key]()
    for track, plan in suite.tracks.items():
        for defense in plan.defenses:
            wanted += [(track, cell) for cell in _cells(suite, track, defense, submitted)]
    absent = Absent(suite)
    metrics: dict[str, Metric | Literal[""]] = {cell.attack: record.metric for (_, cell), record in records.items()}
    for _, cell in wanted:
        if absent.attack(cell.attack):
            metrics[cell.attack] = ""
        elif cell.attack not in metrics:
            # Slow, for it loads torch; needed only where an attack has no record at all.
            metrics[cell.attack] = load_item("attacks", suite.method_of(cell.attack), f"{where}: attacks").METRIC
    results, large = list[Result](), {track for track in suite.tracks if is_lvlm_track(suite, track)}
    for track, cell in wanted:
        metric = metrics[cell.attack]
        if metric in ("CA", "CU"):
            metric = "CU" if track in large else "CA"
        key, sent = (track, cell), submitted.records.get((track, cell))
        name, stronger = (sent.submission, sent.stronger) if sent else ("", False)
        lacking = reason_of(absent.cell(track, cell))
        results.append(Result(*key, metric, records.get(key), name, stronger, lacking))
    return results


def _cells(suite: Suite, track: str, defense: str, submitted: Submitted) -> list[Cell]:
    """All cells of one defense, place by place; within a place by attack, then by seed."""
    plan = suite.tracks[track]
    own = [cell for attack in plan.attacks for cell in cells_of(suite, track, defense, attack)]
    more = [cell for on, cell in submitted.records if (on, cell.defense) == (track, defense) and cell not in own]

    def place(cell: Cell) -> tuple[int, int, int]:
        return plan.checkpoints.index(cell.checkpoint), plan.datasets.index(cell.dataset), plan.splits.index(cell.split)

    return sorted([*own, *more], key=place)


def _with_worst(results: Iterable[Result]) -> list[Result]:
    """The results, those of each place followed by their worst case over attacks."""
    extended = list[Result]()
    for _, group in groupby(results, lambda result: (result.track, result.cell.defense, *scene_of(result.cell)[:3])):
        place = list(group)
        extended += [*place, *worst_results(place)]
    return extended


def _row(result: Result, surviving: set[Scene], suite: Suite) -> Row:
    """The line of a result; it has numbers only where the result is done."""
    track, cell, metric, record, submission, _, lacking = result
    done = record if result.done else None
    cost = done and done.cost
    identity = record and record.identity
    flags = set(record.flags if record else ()) | ({CONTROL_SURVIVES} if scene_of(cell) in surviving else set())
    return Row(
        track=track,
        defense=cell.defense,
        checkpoint=cell.checkpoint,
        dataset=cell.dataset,
        split=cell.split,
        attack=cell.attack,
        threat_model=cell.threat_model,
        eps=_eps(identity, suite.attacks.get(cell.attack)),
        seed=str(cell.seed),
        metric=metric,
        state=result.state,
        reason=" ".join(record.reason.split()) if record else lacking,
        n=str(done.n) if done else "",
        hits=str(done.hits) if done else "",
        value=_percent(done and done.value),
        low=_percent(done and done.low),
        high=_percent(done and done.high),
        flags=" ".join(sorted(flags)),
        tuned_parameters=str(done.tuned_parameters) if done else "",
        poisoned=str(done.poisoned) if done else "",
        poison_rate=f"{done.poison_rate:.6f}" if done else "",
        forwards_per_image=f"{cost.forwards:.2f}" if cost else "",
        backwards_per_image=f"{cost.backwards:.2f}" if cost else "",
        checkpoint_hash=identity.checkpoint[:_HASH_LENGTH] if identity else "",
        artefact_hash=identity.artefact[:_HASH_LENGTH] if identity else "",
        manifest_hash=identity.manifest[:_HASH_LENGTH] if identity else "",
        attack_hash=identity.attack[:_HASH_LENGTH] if identity else "",
        protocol_version=str(identity.protocol.version) if identity else "",
        submission=submission,
    )


def _eps(identity: Identity | None, spec: AttackSpec | None) -> str:
    """The attack's bound in /255, from the suite where there is no record; empty where it has none."""
    options = identity.attack_options if identity else spec.options if spec else {}
    return "" if options.get("eps") is None else f"{options['eps']:g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
