"""Making a submission from the results on this machine, or from adversarial images alone."""

import shutil
from pathlib import Path

import yaml

from bench.config import Options, Suite, ThreatModel
from bench.errors import UserError, unknown
from bench.evaluation.metrics import count, outcomes, wilson
from bench.evaluation.record import Record
from bench.files import sha256_of, write_text
from bench.leaderboard.records import evaluated_records, lines_of
from bench.leaderboard.submissions.board import Board, board_for
from bench.leaderboard.submissions.claims import OF_THE_ATTACK
from bench.leaderboard.submissions.images import read_images
from bench.leaderboard.submissions.read import DESCRIPTION, RECORDS, Description, Kind, record_name
from bench.leaderboard.submissions.replay import predictions_on
from bench.paths import Paths
from bench.provenance import provenance

_Made = tuple[Record, Path | None]  # a record, and where its images are


class Request(Options):
    """What to pack; see ``Description`` for the ids.

    Attributes:
        images: Folder with adversarial images, for an evaluation: ``<cell>.safetensors`` or ``<cell>/<row>.png`` for
            each cell, such as ``clean.shapes.test.seed1``.
        threat_model: What the attacker who made the images used.
    """

    kind: Kind
    track: str
    defense: str
    attack: str = ""
    against: str = ""
    images: Path | None = None
    threat_model: ThreatModel = "white_box"


def pack(folder: Path, request: Request, suite: Suite, paths: Paths) -> Description:
    """Write a submission; authors, licences and references are left for people to fill in.

    Args:
        folder: Where to; its name becomes the submission's.
        request: What to pack.
        suite: A suite with the defense or the attack in it; ``benchmark.yaml`` itself where images alone are sent.
        paths: Where the results, and for images the models and the data, are.

    Raises:
        UserError: The folder is there already, an id is unknown, or there is nothing to pack.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already; choose another name or remove it")
    if request.track not in suite.tracks:
        raise unknown("track", request.track, suite.tracks, "--track")
    if request.defense not in suite.tracks[request.track].defenses:
        raise unknown("defense", request.defense, suite.tracks[request.track].defenses, "--defense")
    board = board_for(suite, paths, folder.name)
    made = _replayed(request, board) if request.images else _found(request, board)
    folder.mkdir(parents=True)
    write_text(folder / RECORDS, lines_of([record for record, _ in made]))
    places = {record_name(record): _copied(source, folder, record) for record, source in made if source}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    description = Description(
        kind=request.kind,
        track=request.track,
        defense=request.defense,
        attack=request.attack if request.kind == "evaluation" else "",
        against=request.against,
        protocol=suite.protocol.version,
        files={path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
        images=places,
        flags=tuple(sorted({flag for record, _ in made for flag in record.flags})),
    )
    content = description.model_dump(mode="json", exclude={"rechecked"})
    write_text(folder / DESCRIPTION, yaml.safe_dump(content, sort_keys=False))
    return description


def _found(request: Request, board: Board) -> list[_Made]:
    """Records that evaluations left and the boards do not have yet; they have no images."""
    attacks = [request.attack] if request.attack else board.suite.tracks[request.track].attacks
    found = list[_Made]()
    for key, record in evaluated_records(board.suite, board.paths).items():
        track, cell = key
        known = key in board.records and board.records[key].outcome == record.outcome
        if (track, cell.defense) == (request.track, request.defense) and cell.attack in attacks and not known:
            found.append((record, None))
    if not found:
        raise UserError(
            f"there are no results of {request.defense} under {', '.join(attacks)} that the boards do not have; "
            f"run: bench evaluate {request.track} {request.defense} --suite {board.paths.suite}"
        )
    return found


def _replayed(request: Request, board: Board) -> list[_Made]:
    """A record for each set of images, from what the row's own model says to them."""
    made, folder = list[_Made](), request.images or Path()
    for (track, cell), record in board.records.items():
        ids = track, cell.defense, cell.attack
        sources = [path for path in (folder / f"{cell.name}.safetensors", folder / cell.name) if path.exists()]
        if ids == (request.track, request.defense, request.against) and record.outcome is not None and sources:
            made.append((_with_images(record, sources[0], request, board), sources[0]))
    if not made:
        raise UserError(
            f"{folder} has no images of a cell of {request.defense} under {request.against}; name them "
            "<checkpoint>.<dataset>.<split>.seed<k>, as files .safetensors or folders of <row>.png"
        )
    return made


def _with_images(record: Record, source: Path, request: Request, board: Board) -> Record:
    assert record.outcome is not None
    outcome, identity = record.outcome, record.identity
    images = read_images(source, outcome.rows)
    predictions = tuple(predictions_on(board.suite, board.paths, request.track, record, images))
    counted = count(outcomes("RA", predictions, outcome.labels, outcome.target))
    low, high = wilson(counted)
    cell = identity.cell.model_copy(update={"attack": request.attack, "threat_model": request.threat_model})
    files = [source] if source.is_file() else sorted(source.iterdir())
    changed = {"cell": cell, "attack": sha256_of(*files), "attack_options": {"eps": identity.attack_options.get("eps")}}
    return record.model_copy(
        update={
            "identity": identity.model_copy(update=changed),
            **{"n": counted.total, "hits": counted.hits, "value": counted.percent, "low": low, "high": high},
            "flags": tuple(flag for flag in record.flags if flag not in OF_THE_ATTACK),
            "outcome": outcome.model_copy(update={"predictions": predictions}),
            "cost": None,
            "provenance": provenance(),
        }
    )


def _copied(source: Path, folder: Path, record: Record) -> str:
    """Put images into the submission; where they are in it."""
    target = folder / "images" / (record_name(record) + source.suffix if source.is_file() else record_name(record))
    target.parent.mkdir(exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
    else:
        shutil.copytree(source, target)
    return target.relative_to(folder).as_posix()
