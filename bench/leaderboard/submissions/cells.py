"""Rules about each record: is it of the right cell, the right images and the right model, and do its numbers add up?"""

import math
from collections import Counter
from collections.abc import Iterator

from bench.evaluation.cells import cells_of
from bench.evaluation.metrics import count, outcomes, wilson
from bench.evaluation.record import Record
from bench.leaderboard.submissions.board import Board
from bench.leaderboard.submissions.read import Submission, record_name

_SLACK = 1e-6


def records_are_of_the_row(submission: Submission, board: Board) -> Iterator[str]:
    """Every record is a cell that the track asks for, or one under the stronger attack."""
    about, plan = submission.description, board.plan(submission)
    attacks = [about.attack] if about.kind == "evaluation" else list(plan.attacks if plan else ())
    for record in submission.records:
        cell = record.identity.cell
        if cell.defense != about.defense:
            yield f"{record_name(record)} is of the defense '{cell.defense}', not of '{about.defense}'; leave it out"
        if plan is None:
            continue
        if cell.attack not in attacks:
            yield f"{record_name(record)}: the attack is not one of {', '.join(attacks)}; leave it out"
        seeds = board.suite.protocol.seeds
        for kind, name, known in (
            ("checkpoint", cell.checkpoint, plan.checkpoints),
            ("dataset", cell.dataset, plan.datasets),
            ("split", cell.split, plan.splits),
            ("seed", cell.seed, seeds[:1] if cell.defense == board.suite.control else seeds),
        ):
            if name not in known:
                yield f"{record_name(record)}: the track has no {kind} {name}; leave it out"


def threat_model_is_told(submission: Submission, board: Board) -> Iterator[str]:
    """What the attacker may use is the suite's, or for a stronger attack one of those with an attacker."""
    for record in submission.records:
        cell = record.identity.cell
        spec = board.suite.attacks.get(cell.attack)
        if spec is not None and cell.threat_model != spec.threat_model:
            yield f"{record_name(record)}: the threat model is {spec.threat_model}, not {cell.threat_model}"
        if spec is None and (cell.threat_model == "none" or record.metric != "RA"):
            yield f"{record_name(record)}: a stronger evaluation measures RA and names its threat model"


def all_images_were_used(submission: Submission, board: Board) -> Iterator[str]:
    """Quick looks are kept out."""
    for record in submission.records:
        if (limit := record.identity.cell.limit) is not None:
            yield f"{record_name(record)} was made with --limit {limit}; evaluate all images of the sample"


def each_cell_comes_once(submission: Submission, board: Board) -> Iterator[str]:
    """Nobody chooses the better of two."""
    for name, times in Counter(map(record_name, submission.records)).items():
        if times > 1:
            yield f"{name} comes {times} times; send one record of each cell"


def nothing_is_left_out(submission: Submission, board: Board) -> Iterator[str]:
    """A new defense is measured on all splits, datasets, checkpoints and seeds, under all attacks of its track."""
    about, plan = submission.description, board.plan(submission)
    if about.kind != "defense" or plan is None:
        return
    there = [record.identity.cell for record in submission.records]
    for attack in plan.attacks:
        for cell in cells_of(board.suite, about.track, about.defense, attack):
            if cell not in there:
                yield f"{about.defense}.{attack}.{cell.name} is left out; a new defense needs every cell of its track"


def protocol_was_followed(submission: Submission, board: Board) -> Iterator[str]:
    """The same protocol, in float32."""
    ours = board.suite.protocol
    for record in submission.records:
        identity = record.identity
        differing = [name for name, value in identity.protocol if value != getattr(ours, name)]
        differing += ["dtype"] if identity.dtype != "float32" else []
        if differing:
            yield f"{record_name(record)} follows another protocol ({', '.join(differing)}); evaluate again"


def control_is_there(submission: Submission, board: Board) -> Iterator[str]:
    """No number without the undefended model beside it."""
    for record in submission.records:
        control = board.control(submission, record)
        known = (submission.description.against or record.identity.cell.attack) in board.suite.attacks
        if known and board.plan(submission) is not None and (control is None or control.state != "done"):
            yield f"{record_name(record)}: the boards lack the undefended control there; submit its result first"


def sample_is_the_protocols(submission: Submission, board: Board) -> Iterator[str]:
    """The images of the control, in its order, with its labels and its target class."""
    for record in submission.records:
        control = board.control(submission, record)
        if control is None or control.outcome is None or record.state != "done":
            continue
        if record.outcome is None:
            yield f"{record_name(record)} has no outcome for each image; evaluate again"
            continue
        names = ("rows", "labels", "target")
        differing = [name for name in names if getattr(record.outcome, name) != getattr(control.outcome, name)]
        differing += ["size"] if record.identity.images != control.identity.images else []
        if differing:
            yield f"{record_name(record)}: the sample is not the control's ({', '.join(differing)}); evaluate again"


def numbers_are_recounted(submission: Submission, board: Board) -> Iterator[str]:
    """n, hits and value follow from the outcomes; where nothing is done there is no number."""
    for record in submission.records:
        if record.state != "done":
            if record.value is not None or not record.reason:
                yield f"{record_name(record)} is {record.state}: it needs a reason, and must have no value"
        elif (hits := _hits(record)) is not None:
            counted = count(hits)
            if (record.n, record.hits) != (counted.total, counted.hits) or not _same(record.value, counted.percent):
                yield (
                    f"{record_name(record)}: the outcomes give {counted.hits} of {counted.total}, not {record.hits} of "
                    f"{record.n} ({record.value} %); evaluate again"
                )


def intervals_are_recomputed(submission: Submission, board: Board) -> Iterator[str]:
    """The interval is Wilson's, of the outcomes."""
    for record in submission.records:
        if record.state == "done" and (hits := _hits(record)) is not None:
            low, high = wilson(count(hits))
            if not (_same(record.low, low) and _same(record.high, high)):
                yield (
                    f"{record_name(record)}: the interval of the outcomes is [{low:.4f}, {high:.4f}], not "
                    f"[{record.low}, {record.high}]; evaluate again"
                )


def model_and_images_are_the_suites(submission: Submission, board: Board) -> Iterator[str]:
    """The checkpoint and the dataset are those of the control."""
    for record in submission.records:
        control = board.control(submission, record)
        for key in ("checkpoint", "manifest"):
            if control is not None and getattr(record.identity, key) != getattr(control.identity, key):
                yield f"{record_name(record)}: the {key} is not the control's; evaluate on the suite's own"


def attack_is_the_suites(submission: Submission, board: Board) -> Iterator[str]:
    """A defense or a result faces the attack of the track: the same code, the same options."""
    for record in submission.records if submission.description.kind != "evaluation" else ():
        control = board.control(submission, record)
        for key in ("attack", "attack_options"):
            if control is not None and getattr(record.identity, key) != getattr(control.identity, key):
                yield f"{record_name(record)}: {key} differs from what the control faced; run the suite's own attack"


def artefact_is_one(submission: Submission, board: Board) -> Iterator[str]:
    """All numbers of a model are of the same weights: those of the row, if it is there already."""
    seen = dict[tuple[str, str, str, int], str]()
    for record in submission.records:
        cell, artefact = record.identity.cell, record.identity.artefact
        first = seen.setdefault((cell.checkpoint, cell.dataset, cell.split, cell.seed), artefact)
        if {artefact} != {first, *(other.identity.artefact for other in board.row(submission, record))}:
            yield f"{record_name(record)} is of another artefact than other numbers of this model; evaluate one model"


def _hits(record: Record) -> list[bool | None] | None:
    """For each image whether it is a hit; None where that cannot be said."""
    outcome = record.outcome
    if outcome is None or len(outcome.predictions) != len(outcome.labels):
        return None
    if record.metric == "ASR" and outcome.target is None:
        return None
    return outcomes(record.metric, outcome.predictions, outcome.labels, outcome.target)


def _same(given: float | None, expected: float) -> bool:
    """Whether a number is as expected; none is expected where nothing was counted."""
    if math.isnan(expected):
        return given is None
    return given is not None and abs(given - expected) <= _SLACK
