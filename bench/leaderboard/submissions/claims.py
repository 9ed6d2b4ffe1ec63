"""Rules about what a submission claims: that warnings are told, old scores stand, and a stronger attack is stronger."""

from collections.abc import Iterator

from bench.evaluation.record import Record
from bench.leaderboard.submissions.board import Board
from bench.leaderboard.submissions.merge import NOT_RECHECKED
from bench.leaderboard.submissions.read import DESCRIPTION, Submission, record_name

_SLACK = 0.001  # percent; what may be rounding in a file made elsewhere
OF_THE_ATTACK = {"nan", "dynamic", "square_beats_gradients", "few_classes", "batch_halved"}


def flags_are_complete(submission: Submission, board: Board) -> Iterator[str]:
    """The description repeats all flags, and a warning about a model does not vanish from it."""
    told = {flag for record in submission.records for flag in record.flags}
    if told != set(submission.description.flags):
        yield f"{DESCRIPTION}: flags: the records have {sorted(told)}; repeat them all"
    for record in submission.records:
        before = board.beside(submission, record)
        about_model = set(before.flags if before else ()) - OF_THE_ATTACK - {NOT_RECHECKED}
        if record.identity.cell.threat_model == "white_box" and (lost := sorted(about_model - set(record.flags))):
            yield f"{record_name(record)} lacks {', '.join(lost)}, found in this model before; evaluate with all checks"


def old_scores_stay(submission: Submission, board: Board) -> Iterator[str]:
    """A value of the boards is replaced only for a stated reason."""
    for record in submission.records:
        before = board.records.get((submission.description.track, record.identity.cell))
        if before is None or before.value is None or record_name(record) in submission.description.moved:
            continue
        if record.value is None or abs(record.value - before.value) > _SLACK:
            yield (
                f"{record_name(record)} moves from {before.value:.4f} to {record.value}; give the reason in "
                f"{DESCRIPTION}, below moved"
            )


def moved_has_reasons(submission: Submission, board: Board) -> Iterator[str]:
    """Each reason is one, and is about a record that is sent."""
    names = set(map(record_name, submission.records))
    for name, reason in submission.description.moved.items():
        if name not in names or not reason.strip():
            yield f"{DESCRIPTION}: moved: {name} must name a record that is sent, with a reason"


def nothing_is_known_already(submission: Submission, board: Board) -> Iterator[str]:
    """No result comes twice, neither from the boards nor from another submission."""
    for record in submission.records:
        key = submission.description.track, record.identity.cell
        if (before := board.records.get(key)) is not None and before.outcome == record.outcome:
            yield f"{record_name(record)} is in the boards already, with the same outcomes; leave it out"
    for other in board.others:
        if _results(submission) & _results(other):
            yield f"'{other.name}' holds the same outcomes under another name; submit what differs"


def evaluation_is_stronger(submission: Submission, board: Board) -> Iterator[str]:
    """A stronger evaluation is finished, and fools the model on an image on which all attacks in the boards failed."""
    if submission.description.kind != "evaluation" or not submission.records:
        return
    for record in submission.records:
        if record.state != "done":
            yield f"{record_name(record)} is {record.state}; a stronger evaluation needs a number"
    if not any(_lowers(record, _rivals(submission, board, record)) for record in submission.records):
        yield "no image that resisted all attacks in the boards is fooled here, so nothing is lowered"


def eps_is_the_rows(submission: Submission, board: Board) -> Iterator[str]:
    """A stronger attack changes no pixel by more than the one it is held against."""
    for record in submission.records if submission.description.kind == "evaluation" else ():
        against = board.beside(submission, record)
        bound = against and against.identity.attack_options.get("eps")
        given = record.identity.attack_options.get("eps")
        if against is not None and bound is None:
            yield f"{DESCRIPTION}: against: '{submission.description.against}' has no eps; name an attack that has one"
        elif bound is not None and not (isinstance(given, (int, float)) and 0 < given <= bound):
            yield f"{record_name(record)}: attack_options.eps is {given}; it must be a number up to {bound} (in /255)"


def _results(submission: Submission) -> set[str]:
    return {record.model_dump_json(exclude={"identity"}) for record in submission.records}


def _rivals(submission: Submission, board: Board, record: Record) -> list[Record]:
    """What is known of the same model under attacks that may change as much as the one it is held against, or less."""
    against = board.beside(submission, record)
    attacked = [other for other in board.row(submission, record) if other.metric == "RA" and other.outcome is not None]
    return [other for other in attacked if against is None or _eps(other) <= _eps(against)]


def _eps(record: Record) -> float:
    return float(record.identity.attack_options.get("eps", "inf"))


def _lowers(record: Record, rivals: list[Record]) -> bool:
    """Whether an image is wrong here that is right under every other attack."""
    right = [_right(other) for other in rivals]
    survivors = set[int].intersection(*right) if right else set[int]()
    return record.outcome is not None and bool(survivors & set(record.outcome.rows) - _right(record))


def _right(record: Record) -> set[int]:
    """The rows of the images that are classified correctly."""
    outcome = record.outcome
    if outcome is None:
        return set()
    triples = zip(outcome.rows, outcome.labels, outcome.predictions, strict=False)
    return {row for row, label, prediction in triples if label == prediction}
