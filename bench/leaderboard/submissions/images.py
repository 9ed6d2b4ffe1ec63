"""Rules about adversarial images: they are there, can be read, stay within eps, and fool the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bench.datasets.halves import part_of
from bench.datasets.store import open_split, read_manifest
from bench.errors import UserError
from bench.evaluation.record import Record
from bench.leaderboard.submissions.board import Board
from bench.leaderboard.submissions.read import DESCRIPTION, Submission, record_name
from bench.leaderboard.submissions.replay import predictions_on

# An eps of n/255 is not a binary fraction; float32 rounding of image +- eps stays below this.
_ROUNDING = 1e-6
_TENSOR = "images"
Pixels = npt.NDArray[np.float32]


def images_belong_to_records(submission: Submission, board: Board) -> Iterator[str]:
    """Where images are sent at all, every record has its own, from the files that are listed."""
    about = submission.description
    names = set(map(record_name, submission.records))
    for name in sorted(names ^ set(about.images)) if about.images else ():
        yield f"{DESCRIPTION}: images: {name} must name a record that is sent, as every record does; pack again"
    for name, place in about.images.items():
        if not any(file == place or file.startswith(f"{place}/") for file in about.files):
            yield f"{DESCRIPTION}: images.{name}: {place} is not among the listed files; pack again"


def images_can_be_read(submission: Submission, board: Board) -> Iterator[str]:
    """Lossless, one for each image of the sample, in [0,1]."""
    for record, path in _sent(submission):
        try:
            read_images(path, _rows(record))
        except UserError as error:
            yield f"{record_name(record)}: {error}"


def images_are_within_eps(submission: Submission, board: Board) -> Iterator[str]:
    """In float32, against the clean images of the dataset; who has these not can rely on the maintainer who had."""
    for record, path in _sent(submission):
        eps = record.identity.attack_options.get("eps")
        try:
            clean = clean_images(board, record)
        except UserError as error:
            if not submission.description.rechecked:
                yield f"{record_name(record)}: eps cannot be verified: {error}"
            continue
        try:
            adversarial = read_images(path, _rows(record))
        except UserError:
            continue  # told by the rule above
        if adversarial.shape != clean.shape:
            yield f"{record_name(record)}: images of shape {adversarial.shape}, but the clean ones have {clean.shape}"
        elif isinstance(eps, (int, float)):
            change = np.abs(adversarial - clean).reshape(len(clean), -1).max(axis=1)
            if (far := np.flatnonzero(~(change <= np.float32(eps / 255) + _ROUNDING))).size:
                row = _rows(record)[int(far[0])]
                yield (
                    f"{record_name(record)}: {far.size} images leave the ball of radius {eps:g}/255, the first of row "
                    f"{row} by a change of {255 * float(change[far[0]]):.3f}/255"
                )


def images_fool_the_model(submission: Submission, board: Board) -> Iterator[str]:
    """The row's own model, as it is on this machine, says to each image what the record says. Slow: on request only."""
    if not submission.description.images:
        yield "there are no images to classify again; repeat the evaluation instead, and compare with: bench verify"
    for record, path in _sent(submission):
        try:
            images = read_images(path, _rows(record))
            found = predictions_on(board.suite, board.paths, submission.description.track, record, images)
        except UserError as error:
            yield f"{record_name(record)}: cannot be classified again: {error}"
            continue
        told = record.outcome.predictions if record.outcome else ()
        if differing := sum(ours != theirs for ours, theirs in zip(found, told, strict=False)):
            yield f"{record_name(record)}: the model says something else to {differing} of {len(found)} images"


def read_images(path: Path, rows: tuple[int, ...]) -> Pixels:
    """Adversarial images as float32 in [0,1], ``(n, 3, h, w)``.

    Args:
        path: A safetensors file with one tensor ``images``, uint8 or float32, or a folder of PNGs ``<row>.png``.
        rows: The sample.

    Raises:
        UserError: They cannot be read, are too many or too few, or lie outside [0,1].
    """
    found = _tensor(path) if path.suffix == ".safetensors" else _pngs(path, rows)
    if found.dtype.name not in ("uint8", "float32") or found.ndim != 4 or found.shape[:2] != (len(rows), 3):
        given = f"{found.dtype} of shape {found.shape}"
        raise UserError(f"{path}: must be uint8 or float32 of shape ({len(rows)}, 3, h, w), not {given}")
    images: Pixels = found.astype(np.float32) / np.float32(255 if found.dtype == np.uint8 else 1)
    if not (images.min(initial=0) >= 0 and images.max(initial=0) <= 1):  # also where one is NaN
        raise UserError(f"{path}: float32 images must lie in [0,1]")
    return images


def clean_images(board: Board, record: Record) -> Pixels:
    """The clean images of a record's sample; raises a ``UserError`` where this machine does not have just these."""
    cell = record.identity.cell
    manifest = read_manifest(board.paths.data, cell.dataset)
    if manifest.digest != record.identity.manifest:
        raise UserError(f"the images of '{cell.dataset}' here are not the record's; fetch them by the suite's options")
    split = open_split(board.paths.data, manifest, part_of(manifest, cell.split).split)
    return np.asarray(split.images[list(_rows(record))]).astype(np.float32) / np.float32(255)


def _sent(submission: Submission) -> Iterator[tuple[Record, Path]]:
    """The records with the place of their images, where these are in the folder."""
    for record in submission.records:
        place = submission.description.images.get(record_name(record))
        if place is not None and (submission.folder / place).exists() and record.outcome is not None:
            yield record, submission.folder / place


def _rows(record: Record) -> tuple[int, ...]:
    return record.outcome.rows if record.outcome else ()


def _tensor(path: Path) -> npt.NDArray[Any]:
    try:
        tensors = load_file(path)
    except (SafetensorError, TypeError, AttributeError) as error:  # the last two: types that numpy does not know
        raise UserError(f"{path} is no safetensors file of uint8 or float32 ({error}); write it again") from error
    if set(tensors) != {_TENSOR}:
        raise UserError(f"{path} must hold one tensor '{_TENSOR}', not {sorted(tensors)}")
    return tensors[_TENSOR]


def _pngs(path: Path, rows: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    names = {file.name for file in path.iterdir()} if path.is_dir() else set[str]()
    if names != {f"{row}.png" for row in rows}:
        raise UserError(f"{path} must hold one PNG for each image of the sample, named by its row, and nothing else")
    try:
        pixels = [np.asarray(Image.open(path / f"{row}.png", formats=["PNG"]).convert("RGB")) for row in rows]
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise UserError(f"{path}: {error}: the content is no PNG, or damaged") from error
    if len({image.shape for image in pixels}) > 1:
        raise UserError(f"{path}: the images differ in size")
    return np.stack(pixels).transpose(0, 3, 1, 2)
