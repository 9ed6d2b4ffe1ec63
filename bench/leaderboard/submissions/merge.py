"""What the submissions add to a suite: defenses, results, and evaluations that lower what is known of a row."""

from collections.abc import Iterable
from typing import NamedTuple

from bench.config import DefenseSpec, Suite
from bench.errors import UserError
from bench.evaluation.record import Record
from bench.leaderboard.records import Key
from bench.leaderboard.submissions.read import Submission

NOT_RECHECKED = "not_rechecked"


class Sent(NamedTuple):
    """A submitted record: by whom, and whether it is a stronger evaluation, which counts in the worst case."""

    submission: str
    record: Record
    stronger: bool


class Submitted(NamedTuple):
    """All submissions together: the suite with the new defenses in it, and the records by track and cell."""

    suite: Suite
    records: dict[Key, Sent]


def merge(suite: Suite, submissions: Iterable[Submission]) -> Submitted:
    """Put submissions together.

    Raises:
        UserError: One of them is damaged or names something that the suite does not have.
    """
    records = dict[Key, Sent]()
    for submission in submissions:
        about, see = submission.description, f"see: bench submit check {submission.folder}"
        if submission.faults:
            raise UserError(f"{submission.folder}: {submission.faults[0]}; {see}")
        plan = suite.tracks.get(about.track)
        if plan is None:
            raise UserError(f"{submission.folder}: the suite has no track '{about.track}'; {see}")
        for record in submission.records:
            cell, flags = record.identity.cell, set(record.flags) | (set() if about.rechecked else {NOT_RECHECKED})
            place = (plan.checkpoints, cell.checkpoint), (plan.datasets, cell.dataset), (plan.splits, cell.split)
            if not all(name in known for known, name in place):
                raise UserError(f"{submission.folder}: the track has no {cell.name}; {see}")
            marked = record.model_copy(update={"flags": tuple(sorted(flags))})
            records[about.track, cell] = Sent(submission.name, marked, about.kind == "evaluation")
        if about.kind == "defense":
            defenses = plan.defenses | {about.defense: DefenseSpec()}
            tracks = suite.tracks | {about.track: plan.model_copy(update={"defenses": defenses})}
            suite = suite.model_copy(update={"tracks": tracks})
    return Submitted(suite, records)
