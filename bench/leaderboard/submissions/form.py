"""Rules about what a submission says of itself, and about its files."""

import re
from collections.abc import Iterator

from bench.errors import unknown
from bench.files import sha256_of
from bench.leaderboard.submissions.board import Board
from bench.leaderboard.submissions.read import DESCRIPTION, RECORDS, Reference, Submission
from bench.leaderboard.worst import WORST

MOST_BYTES = 20 * 2**20
_ID = re.compile(r"[a-z0-9_]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOSSLESS = (".png", ".safetensors")


def kind_is_given(submission: Submission, board: Board) -> Iterator[str]:
    """One of three kinds."""
    if not submission.description.kind:
        yield f"{DESCRIPTION}: kind: say defense, result or evaluation"


def name_is_an_id(submission: Submission, board: Board) -> Iterator[str]:
    """The folder's name becomes part of the boards."""
    if not _ID.fullmatch(submission.name):
        yield f"the folder's name '{submission.name}' must be of lower-case letters, digits and _; rename it"


def track_is_known(submission: Submission, board: Board) -> Iterator[str]:
    """A submission belongs to one track."""
    if board.plan(submission) is None:
        yield str(unknown("track", submission.description.track, board.suite.tracks, f"{DESCRIPTION}: track"))


def row_fits_the_kind(submission: Submission, board: Board) -> Iterator[str]:
    """A new defense has a new id; results and evaluations are about a row that is there."""
    about, plan = submission.description, board.plan(submission)
    if plan is None:
        return
    if about.kind != "defense" and about.defense not in plan.defenses:
        yield str(unknown("defense", about.defense, plan.defenses, f"{DESCRIPTION}: defense"))
    if about.kind == "defense" and (about.defense in plan.defenses or not _ID.fullmatch(about.defense)):
        yield (
            f"{DESCRIPTION}: defense: '{about.defense}' must be an id that the track does not have; choose another, or "
            "submit a result"
        )


def attack_fits_the_kind(submission: Submission, board: Board) -> Iterator[str]:
    """A stronger evaluation has an attack of its own and says which one of the track it is held against."""
    about, plan = submission.description, board.plan(submission)
    if about.kind != "evaluation":
        if about.attack or about.against or about.images:
            yield f"{DESCRIPTION}: attack, against and images belong to an evaluation only; leave them out"
        return
    if not _ID.fullmatch(about.attack) or about.attack in board.suite.attacks or about.attack == WORST:
        yield f"{DESCRIPTION}: attack: '{about.attack}' must be an id that the suite does not have; choose another one"
    if plan is not None and about.against not in plan.attacks:
        yield str(unknown("attack", about.against, plan.attacks, f"{DESCRIPTION}: against"))


def authors_are_named(submission: Submission, board: Board) -> Iterator[str]:
    """Someone must be there to ask."""
    about = submission.description
    if not about.authors or not about.contact:
        yield f"{DESCRIPTION}: authors and contact: say who made this and how to reach them"


def licence_is_given(submission: Submission, board: Board) -> Iterator[str]:
    """Without a licence nothing may be shown."""
    if not submission.description.licence:
        yield f"{DESCRIPTION}: licence: name the licence of the content, such as CC-BY-4.0"


def content_may_be_passed_on(submission: Submission, board: Board) -> Iterator[str]:
    """Git passes everything on."""
    if not submission.description.redistribution:
        yield f"{DESCRIPTION}: redistribution: must be true, for everyone who clones the repository gets the content"


def code_is_referred_to(submission: Submission, board: Board) -> Iterator[str]:
    """A defense, or an attack that sends no images, can be repeated from its code only."""
    about = submission.description
    if about.kind == "defense" or (about.kind == "evaluation" and not about.images):
        yield from _incomplete("code", about.code)


def weights_are_referred_to(submission: Submission, board: Board) -> Iterator[str]:
    """A defense cannot be attacked by others without its weights."""
    if submission.description.kind == "defense":
        yield from _incomplete("weights", submission.description.weights)


def protocol_is_the_suites(submission: Submission, board: Board) -> Iterator[str]:
    """Rows of different protocols cannot be compared."""
    ours, given = board.suite.protocol.version, submission.description.protocol
    if given != ours:
        yield f"{DESCRIPTION}: protocol: the suite has version {ours}, not {given}; evaluate again with this version"


def files_are_listed(submission: Submission, board: Board) -> Iterator[str]:
    """Every file has a hash in the description, and every hash a file."""
    listed, there = set(submission.description.files), _files(submission)
    for name in sorted(there - listed - {DESCRIPTION, "README.md"}):
        yield f"{name} is not listed in files; remove it or pack again"
    for name in sorted(listed - there):
        yield f"{DESCRIPTION}: files: {name} is not in the folder; add it or pack again"
    for path in sorted(submission.folder.rglob("*")):
        if path.is_symlink():
            yield f"{path.relative_to(submission.folder)} is a link; put the file itself there"


def files_have_their_hash(submission: Submission, board: Board) -> Iterator[str]:
    """A file that was changed after packing is refused."""
    for name, digest in submission.description.files.items():
        if name in _files(submission) and sha256_of(submission.folder / name) != digest:
            yield f"{DESCRIPTION}: files: {name} has another hash than the file; pack again"


def files_are_lossless(submission: Submission, board: Board) -> Iterator[str]:
    """Lossy images are not the ones that fooled the model; other files have no use here."""
    for name in sorted(_files(submission) - {DESCRIPTION, "README.md", RECORDS}):
        if not name.lower().endswith(_LOSSLESS):
            lossy = name.lower().endswith((".jpg", ".jpeg", ".webp"))
            why = "is a lossy image" if lossy else "is of a kind that has no use here"
            yield f"{name} {why}; send images as PNG or as safetensors"


def folder_is_small(submission: Submission, board: Board) -> Iterator[str]:
    """Git keeps everything for ever."""
    size = sum((submission.folder / name).stat().st_size for name in _files(submission))
    if size > MOST_BYTES:
        yield f"the folder has {size / 2**20:.1f} MiB; git can keep {MOST_BYTES >> 20} MiB: send fewer images"


def _files(submission: Submission) -> set[str]:
    found = (path for path in submission.folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(submission.folder).as_posix() for path in found}


def _incomplete(key: str, reference: Reference) -> Iterator[str]:
    if not reference.url:
        yield f"{DESCRIPTION}: {key}.url: say where it is kept, by a link that names a commit or a release"
    if not _SHA256.fullmatch(reference.sha256):
        yield f"{DESCRIPTION}: {key}.sha256: give the hash of what is there, as 64 hexadecimal digits"
    if not reference.licence:
        yield f"{DESCRIPTION}: {key}.licence: name its licence, such as Apache-2.0"
