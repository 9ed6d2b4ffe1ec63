"""All rules of a submission, each a function from it and the boards to what is wrong. To add a rule, add a function."""

from collections.abc import Callable, Iterator
from pathlib import Path

from bench.config import Suite
from bench.leaderboard.submissions import cells, claims, form, images
from bench.leaderboard.submissions.board import Board, board_for
from bench.leaderboard.submissions.read import Description, Submission, read_submission
from bench.paths import Paths

Rule = Callable[[Submission, Board], Iterator[str]]
RULES: tuple[Rule, ...] = (
    form.kind_is_given,
    form.name_is_an_id,
    form.track_is_known,
    form.row_fits_the_kind,
    form.attack_fits_the_kind,
    form.authors_are_named,
    form.licence_is_given,
    form.content_may_be_passed_on,
    form.code_is_referred_to,
    form.weights_are_referred_to,
    form.protocol_is_the_suites,
    form.files_are_listed,
    form.files_have_their_hash,
    form.files_are_lossless,
    form.folder_is_small,
    cells.records_are_of_the_row,
    cells.threat_model_is_told,
    cells.all_images_were_used,
    cells.each_cell_comes_once,
    cells.nothing_is_left_out,
    cells.protocol_was_followed,
    cells.control_is_there,
    cells.sample_is_the_protocols,
    cells.numbers_are_recounted,
    cells.intervals_are_recomputed,
    cells.model_and_images_are_the_suites,
    cells.attack_is_the_suites,
    cells.artefact_is_one,
    claims.flags_are_complete,
    claims.old_scores_stay,
    claims.moved_has_reasons,
    claims.nothing_is_known_already,
    claims.evaluation_is_stronger,
    claims.eps_is_the_rows,
    images.images_belong_to_records,
    images.images_can_be_read,
    images.images_are_within_eps,
)


def check(folder: Path, suite: Suite, paths: Paths, *, recheck: bool = False) -> list[str]:
    """Everything that is wrong with a submission; nothing if it is good.

    Args:
        folder: The submission.
        suite: What it is submitted to.
        paths: Where the boards and the data are.
        recheck: Show adversarial images to the row's own model, which must be on this machine.

    Raises:
        UserError: The boards themselves are damaged.
    """
    submission = read_submission(folder)
    if submission.description == Description():
        return submission.faults  # nothing is described, so nothing can be checked
    board = board_for(suite, paths, submission.name)
    rules = (*RULES, images.images_fool_the_model) if recheck else RULES
    return [*submission.faults, *(fault for rule in rules for fault in rule(submission, board))]
