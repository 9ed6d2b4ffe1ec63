"""The files in an archive, one after the other, in memory: nothing is unpacked to disk, so nothing can escape.

Zip and tar files (compressed or not), tar files inside either, and folders that somebody unpacked. Names that lead out
of the archive, links, and archives that hold more than they should are refused.
"""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bench.datasets.archives.source import Member, Opened
from bench.errors import UserError

_TARS = (".tar", ".tar.gz", ".tgz")


def members(opened: Opened, *names: str, below: str = "") -> Iterator[Member]:
    """All files in the archives ``names``.

    Args:
        opened: The dataset's archives.
        names: Which of them.
        below: Only files below this folder, and their names from there on.

    Raises:
        UserError: An archive is damaged, unsafe or holds more than it should.
    """
    for name in names:
        path = opened.path(name)
        with _told(path):
            for member in _walk(path, _Budget(path, opened.limit(name))):
                _, found, rest = f"/{member.name}".rpartition(f"/{below}/") if below else ("", "/", member.name)
                if found:
                    yield Member(rest, member.read)


def texts(opened: Opened, name: str, *wanted: str) -> list[bytes]:
    """The contents of a few files in an archive, found by the end of their names.

    Raises:
        UserError: One is not there.
    """
    found = dict[str, bytes]()
    for member in members(opened, name):
        for end in wanted:
            if f"/{member.name}".endswith(f"/{end}"):
                found[end] = bytes(member.read())
        if len(found) == len(wanted):
            break
    if absent := [end for end in wanted if end not in found]:
        raise UserError(f"{opened.path(name)}: {', '.join(absent)} is not in it; is this the right file?")
    return [found[end] for end in wanted]


class _Budget:
    """How much an archive may still unpack to."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit, self._spent = path, limit, 0

    def spend(self, name: str, size: int) -> None:
        self._spent += size
        if self._spent > self._limit:
            raise UserError(
                f"{self._path} unpacks to more than the {self._limit:,} bytes that it should hold (at '{name}'); "
                "it is not the published file: delete it"
            )


def _walk(path: Path, budget: _Budget) -> Iterator[Member]:
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            yield Member(f"{path.name}/{file.relative_to(path).as_posix()}", file.read_bytes)
        return
    with path.open("rb") as file:
        if file.peek(2)[:2] == b"PK":
            yield from _zip(path, file, budget)
        else:
            yield from _tar(path, file, budget)


def _zip(path: Path, file: IO[bytes], budget: _Budget) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if (info.external_attr >> 28) == 0o12:
                raise UserError(f"{path}: '{info.filename}' is a link; archives with links are not used")
            name = _safe(path, info.filename)
            budget.spend(name, info.file_size)
            yield from _deeper(path, name, lambda info=info: archive.open(info), budget)


def _tar(path: Path, file: IO[bytes], budget: _Budget) -> Iterator[Member]:
    # Through gzip's own reader: tarfile takes a compressed stream that ends early for the end of the archive.
    buffered: Any = file
    stream: Any = gzip.GzipFile(fileobj=file) if buffered.peek(2)[:2] == b"\x1f\x8b" else file
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in archive:
            if info.isdir():
                continue
            if not info.isfile():
                raise UserError(f"{path}: '{info.name}' is a link or device; archives with those are not used")
            name = _safe(path, info.name)
            budget.spend(name, info.size)
            yield from _deeper(path, name, lambda info=info: _content(archive, info), budget)
    if stream is not file:
        while stream.read(1 << 20):  # to the end, where gzip keeps its checksum
            pass


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(info)
    if content is None:
        raise tarfile.ReadError(f"{info.name} cannot be read")
    return content


def _deeper(path: Path, name: str, content: Callable[[], IO[bytes]], budget: _Budget) -> Iterator[Member]:
    """The member itself, or what is inside if it is a tar file."""
    if name.endswith(_TARS):
        with content() as inner:
            yield from _tar(path, inner, budget)
    else:
        yield Member(name, lambda: _read(path, name, content))


def _read(path: Path, name: str, content: Callable[[], IO[bytes]]) -> bytes:
    with _told(path), content() as file:
        return file.read()


def _safe(path: Path, name: str) -> str:
    """``name`` without a leading ``./``, if it stays inside the archive."""
    clean = PurePosixPath(name)
    if clean.is_absolute() or ".." in clean.parts or "\\" in name or ":" in name.split("/")[0]:
        raise UserError(f"{path}: the name '{name}' leads out of the archive; it is not the published file: delete it")
    return str(clean)


@contextmanager
def _told(path: Path) -> Generator[None]:
    """Whatever a damaged archive raises, as one message that names it."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); delete it and fetch again") from error
