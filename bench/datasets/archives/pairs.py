"""Image-caption pairs as a stream: hundreds of thousands of them, never all in memory.

Rows are packed: a pair whose image is missing or damaged is dropped, counted and named. A state file says how far the
arrays are good, so that a killed run goes on from there.
"""

import shutil
from collections.abc import Callable, Iterable
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.config import Options
from bench.datasets.archives.pixels import BadImage, decoder, in_parallel
from bench.datasets.archives.source import ArchiveOptions
from bench.errors import UserError
from bench.files import sha256_of, write_text
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
    """How far the stream was read, what is good (rows, and bytes of the text files), and what was left out.

    ``sha256`` is that of the finished array.
    """

    seen: int = 0
    rows: int = 0
    captions: int = 0
    names: int = 0
    left_out: int = 0
    first: tuple[str, ...] = ()
    sha256: str = ""


def write_pairs(folder: Path, pairs: Iterable[Pair], most: int, options: ArchiveOptions) -> State:
    """Write the split ``train`` into ``folder``, unless it is there already.

    Args:
        folder: Belongs to these pairs and options alone.
        pairs: The stream, in an order that does not change.
        most: At most so many rows; the stream is read no further.
        options: How to prepare the images.

    Raises:
        UserError: No pair has an image.
    """
    complete = folder / _COMPLETE
    if complete.exists():
        state = State.model_validate_json(complete.read_text("utf-8"))
        if sha256_of(folder / IMAGES) == state.sha256:
            return state
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = _write(folder, pairs, most, options)
    if not state.rows:
        raise UserError(f"none of {state.seen} images could be read, first: {', '.join(state.first)}")
    state = state.model_copy(update={"sha256": sha256_of(folder / IMAGES)})
    write_text(complete, state.model_dump_json())
    return state


def _write(folder: Path, pairs: Iterable[Pair], most: int, options: ArchiveOptions) -> State:
    stored = folder / _STATE
    state = State.model_validate_json(stored.read_text("utf-8")) if stored.exists() else State()
    seen, rows, left_out, first = state.seen, state.rows, state.left_out, list(state.first)
    decode, header = decoder(options), _header(0, options.size)

    def read(pair: Pair) -> tuple[Pair, npt.NDArray[np.uint8] | None]:
        try:
            return pair, decode(pair.name, pair.read())
        except (OSError, BadImage):
            return pair, None

    def reached(captions: int = 0, names: int = 0) -> State:
        return State(seen=seen, rows=rows, captions=captions, names=names, left_out=left_out, first=tuple(first))

    jobs = ((pair,) for pair in islice(pairs, seen, None))
    with (
        _from(folder / IMAGES, len(header) + rows * 3 * options.size**2) as images,
        _from(folder / CAPTIONS, state.captions) as captions,
        _from(folder / NAMES, state.names) as names,
    ):
        for pair, pixels in in_parallel(read, track(jobs, f"decoding {folder.name}", most - rows)):
            seen += 1
            if pixels is None:
                left_out += 1
                first += [pair.name] if len(first) < _NAMED else []
            else:
                images.write(pixels.tobytes())
                for file, text in ((captions, pair.caption), (names, pair.name)):
                    file.write(f"{' '.join(text.split())}\n".encode())
                rows += 1
            if seen % _EVERY == 0:
                for file in (images, captions, names):
                    file.flush()
                write_text(stored, reached(captions.tell(), names.tell()).model_dump_json())
            if rows == most:
                break
        images.seek(0)
        images.write(_header(rows, options.size))
    return reached()


def _header(rows: int, size: int) -> bytes:
    """Start of a NumPy file of ``rows`` images; of the same length for any number, as NumPy leaves room for it."""
    buffer = BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (rows, 3, size, size)}
    np.lib.format.write_array_header_1_0(buffer, shape)
    return buffer.getvalue()


def _from(path: Path, good: int) -> BinaryIO:
    """``path`` opened for writing after its first ``good`` bytes."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(good)
    file.seek(good)
    return file
