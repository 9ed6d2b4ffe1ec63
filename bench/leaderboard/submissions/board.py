"""What a submission is held against: the suite, its committed records, and the submissions that are there already."""

from typing import NamedTuple

from bench.config import Suite, Track
from bench.evaluation.record import Record
from bench.leaderboard.records import Key, committed_records
from bench.leaderboard.submissions.merge import merge
from bench.leaderboard.submissions.read import Submission, read_submissions
from bench.paths import Paths


class Board(NamedTuple):
    """The state before a submission.

    Attributes:
        suite: The suite, with the defenses that were submitted before.
        paths: Where everything is.
        records: What stands in the boards, by track and cell.
        others: The submissions that are there already.
    """

    suite: Suite
    paths: Paths
    records: dict[Key, Record]
    others: list[Submission]

    def plan(self, submission: Submission) -> Track | None:
        """The track that a submission names, if there is one."""
        return self.suite.tracks.get(submission.description.track)

    def control(self, submission: Submission, record: Record) -> Record | None:
        """The undefended control's record at the place of ``record``, under the attack that it is held against."""
        cell = {"defense": self.suite.control, "seed": self.suite.protocol.seeds[0]}
        return self.beside(submission, record, **cell)

    def row(self, submission: Submission, record: Record) -> list[Record]:
        """All records of the same model: of the same defense, checkpoint, dataset, split and seed."""
        same = ("checkpoint", "defense", "dataset", "split", "seed")
        cell = record.identity.cell
        return [
            other
            for (track, there), other in self.records.items()
            if track == submission.description.track
            and all(getattr(there, name) == getattr(cell, name) for name in same)
        ]

    def beside(self, submission: Submission, record: Record, **cell: object) -> Record | None:
        """The record that differs from ``record`` in ``cell``, and in the attack if it is held against another."""
        attack = submission.description.against or record.identity.cell.attack
        if attack not in self.suite.attacks:
            return None
        changed = {"attack": attack, "threat_model": self.suite.attacks[attack].threat_model, "limit": None} | cell
        return self.records.get((submission.description.track, record.identity.cell.model_copy(update=changed)))


def board_for(suite: Suite, paths: Paths, name: str) -> Board:
    """The state that the submission ``name`` is held against: without itself, if it is there already.

    Raises:
        UserError: A committed record or another submission is damaged.
    """
    others = [submission for submission in read_submissions(paths.submissions) if submission.name != name]
    submitted = merge(suite, others)
    records = committed_records(suite, paths) | {key: sent.record for key, sent in submitted.records.items()}
    return Board(submitted.suite, paths, records, others)
