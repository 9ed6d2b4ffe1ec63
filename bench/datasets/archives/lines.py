"""Many short texts without an object for each: one per line in a file, read where they are."""

import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt


class Lines(Sequence[str]):
    """The lines of a UTF-8 file as a sequence; memory is eight bytes per line."""

    def __init__(self, path: Path) -> None:
        """Find where the lines of ``path`` end; the texts stay on disk."""
        with path.open("rb") as file:
            empty = path.stat().st_size == 0
            self._text: mmap.mmap | bytes = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._ends = _line_ends(self._text)

    def __len__(self) -> int:
        """Number of lines."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """The text at ``index``, or the texts of a slice."""
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        start = int(self._ends[row - 1]) + 1 if row else 0
        return self._text[start : int(self._ends[row])].decode("utf-8")


def write_lines(path: Path, texts: Iterable[str]) -> int:
    """Write ``texts``, one per line and white space in them as single spaces.

    Returns:
        How many there were.
    """
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for text in texts:
            file.write(" ".join(text.split()) + "\n")
            count += 1
    return count


def _line_ends(text: mmap.mmap | bytes, block: int = 1 << 24) -> npt.NDArray[np.int64]:
    """Places of all line ends, found block by block."""
    ends = [
        np.flatnonzero(np.frombuffer(text[start : start + block], np.uint8) == ord("\n")) + start
        for start in range(0, len(text), block)
    ]
    return np.concatenate(ends) if ends else np.empty(0, np.int64)
