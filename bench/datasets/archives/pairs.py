"""Image-caption pairs as a stream: hundreds of thousands of them, never all in memory.

Rows are packed: a pair whose image is missing or damaged is dropped, counted and named. A state file says how far the
arrays are good, so that a killed run goes on from there.
"""

import math
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.config import Options
from bench.datasets.archives.pixels import BadImage, decoder, in_parallel, open_array
from bench.datasets.archives.source import ArchiveOptions
from bench.errors import UserError
from bench.files import write_text
from bench.progress import track

IMAGES, CAPTIONS, NAMES = "train.images.npy", "train.captions.txt", "train.names.txt"
_STATE, _COMPLETE = "state.json", "complete.json"
_NAMED, _EVERY = 5, 5_000


class Pair(NamedTuple):
    """An image's name, its caption, and how to read it; reading may raise ``OSError``."""

    name: str
    caption: str
    read: Callable[[], bytes]


class State(Options):
    """How far the stream was read, what is good (rows, and bytes of the text files), and what was left out."""

    seen: int = 0
    rows: int = 0
    captions: int = 0
    names: int = 0
    left_out: int = 0
    first: tuple[str, ...] = ()


def write_pairs(folder: Path, pairs: Iterable[Pair], most: int, options: ArchiveOptions) -> State:
    """Write the split ``train`` into ``folder``, unless it is there already.

    Args:
        folder: Belongs to these pairs and options alone.
        pairs: The stream, in an order that does not change.
        most: Rows to make room for; the stream is read no further.
        options: How to prepare the images.

    Raises:
        UserError: No pair has an image.
    """
    complete = folder / _COMPLETE
    if not complete.exists():
        folder.mkdir(parents=True, exist_ok=True)
        state = _write(folder, pairs, most, options)
        if not state.rows:
            raise UserError(f"none of {state.seen} images could be read, first: {', '.join(state.first)}")
        _shrink(folder / IMAGES, state.rows)
        write_text(complete, state.model_dump_json())
    return State.model_validate_json(complete.read_text("utf-8"))


def _write(folder: Path, pairs: Iterable[Pair], most: int, options: ArchiveOptions) -> State:
    stored, shape = folder / _STATE, (most, 3, options.size, options.size)
    if not _has_shape(folder / IMAGES, shape):
        stored.unlink(missing_ok=True)
    array = open_array(folder / IMAGES, *shape)
    state = State.model_validate_json(stored.read_text("utf-8")) if stored.exists() else State()
    seen, rows, left_out, first = state.seen, state.rows, state.left_out, list(state.first)
    decode = decoder(options)

    def read(pair: Pair) -> tuple[Pair, npt.NDArray[np.uint8] | None]:
        try:
            return pair, decode(pair.name, pair.read())
        except (OSError, BadImage):
            return pair, None

    jobs = ((pair,) for pair in islice(pairs, seen, None))
    with _from(folder / CAPTIONS, state.captions) as captions, _from(folder / NAMES, state.names) as names:
        for pair, pixels in in_parallel(read, track(jobs, f"decoding {folder.name}", most - rows)):
            seen += 1
            if pixels is None:
                left_out += 1
                first = [*first, pair.name][:_NAMED]
            else:
                array[rows] = pixels
                captions.write(f"{' '.join(pair.caption.split())}\n".encode())
                names.write(f"{pair.name}\n".encode())
                rows += 1
            if seen % _EVERY == 0:
                captions.flush()
                names.flush()
                ends = {"captions": captions.tell(), "names": names.tell()}
                state = State(seen=seen, rows=rows, left_out=left_out, first=tuple(first), **ends)
                write_text(stored, state.model_dump_json())
            if rows == most:
                break
    return State(seen=seen, rows=rows, left_out=left_out, first=tuple(first))


def _from(path: Path, good: int) -> BinaryIO:
    """``path`` opened for writing after its first ``good`` bytes."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(good)
    file.seek(good)
    return file


def _has_shape(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.lib.format.open_memmap(path, "r").shape == shape
    except (FileNotFoundError, ValueError, EOFError):
        return False


def _shrink(path: Path, rows: int) -> None:
    """Cut the array in ``path`` to its first ``rows`` rows, in place; NumPy leaves room in the header for that."""
    shape = np.lib.format.open_memmap(path, "r").shape
    with path.open("r+b") as file:
        np.lib.format.read_magic(file)
        _, order, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        file.seek(0)
        header = {"descr": dtype.str, "fortran_order": order, "shape": (rows, *shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        if file.tell() != start:
            raise RuntimeError(f"{path}: the header of {rows} rows has another length")
        file.truncate(start + math.prod((rows, *shape[1:])))
