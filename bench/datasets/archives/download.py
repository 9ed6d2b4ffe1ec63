"""One file over HTTP, resumed after every drop of the connection; what arrives is checked by ``receive.py``.

``requests`` speaks HTTP. Pooch does not resume, and the hub's client knows no other host, so neither is enough.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import requests

Advance = Callable[[int, int], None]
TIMEOUT = (15, 60)
ATTEMPTS = 6
FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0
_BLOCK = 1 << 18
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_HUB = "huggingface.co"


class SourceError(Exception):
    """An address that does not serve the file; the next one is tried."""


class _Dropped(Exception):
    """A fault that may pass: the same address is tried again, after ``wait`` seconds or the usual back-off."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def download(url: str, part: Path, size: int, advance: Advance) -> None:
    """Bring ``part`` to the whole length of what ``url`` serves; bytes that it holds already are kept.

    Args:
        url: Address, or path of a local file.
        part: File to write; never the final name.
        size: Bytes to expect; 0 where it is not known.
        advance: Called with the bytes so far and in all (0 where it is not known).

    Raises:
        SourceError: The address does not have the file, serves something else, or failed too often without progress.
    """
    if "://" not in url:
        return _copy(Path(url), part, advance)
    failures = 0
    while True:
        before = _length(part)
        try:
            return _stream(url, part, size, advance)
        except (_Dropped, requests.RequestException) as error:
            failures = 1 if _length(part) > before else failures + 1
            if failures >= ATTEMPTS:
                raise SourceError(f"{url}: {error} ({failures} attempts)") from error
            asked = error.wait if isinstance(error, _Dropped) else 0.0
            time.sleep(min(_LONGEST_WAIT, max(asked, FIRST_WAIT * 2 ** (failures - 1))))


def _stream(url: str, part: Path, size: int, advance: Advance) -> None:
    have, tag = _length(part), part.with_name(f"{part.name}.tag")
    headers = {"Accept-Encoding": "identity", "User-Agent": "vlm-robust-bench"} | _token(url)
    if have:
        headers["Range"] = f"bytes={have}-"
        if known := tag.read_text("utf-8") if tag.exists() else "":
            headers["If-Range"] = known  # a file that changed there is sent whole
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        total = _check(response, url, have, size)
        resumed = response.status_code == requests.codes.partial_content
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            if have != total:
                part.unlink()
                raise _Dropped("the part here is longer than the file there")
            return
        have = have if resumed else 0
        strong = response.headers.get("ETag", "")
        tag.write_text("" if strong.startswith("W/") else strong, "utf-8")
        if total - have > shutil.disk_usage(part.parent).free:
            raise OSError(errno.ENOSPC, f"{part.name} needs {total - have} bytes more")
        with part.open("ab" if resumed else "wb") as file:
            for block in response.iter_content(_BLOCK):
                file.write(block)
                have += len(block)
                advance(have, total)
            file.flush()
            os.fsync(file.fileno())
    if total and have < total:
        raise _Dropped(f"the connection ended after {have} of {total} bytes")


def _check(response: requests.Response, url: str, have: int, size: int) -> int:
    """The length of the whole file (0 where it is not told), if the answer is that file."""
    code = response.status_code
    if code in _BUSY:
        after = response.headers.get("Retry-After", "")
        raise _Dropped(f"the server answers {code}", float(after) if after.isdigit() else 0.0)
    if code in (401, 403):
        hint = "; accept the terms on its page and set HF_TOKEN" if _HUB in url else ""
        raise SourceError(f"{url}: access refused ({code}){hint}")
    span = response.headers.get("Content-Range", "")
    total = int(span.rpartition("/")[2]) if span.rpartition("/")[2].isdigit() else 0
    if code == requests.codes.requested_range_not_satisfiable:
        return total
    if code not in (requests.codes.ok, requests.codes.partial_content):
        raise SourceError(f"{url}: the server answers {code}")
    if code == requests.codes.ok:
        total = int(response.headers.get("Content-Length", 0))
    elif not span.startswith(f"bytes {have}-"):
        raise SourceError(f"{url}: asked for bytes from {have} on, got '{span}'")
    if "text/html" in response.headers.get("Content-Type", ""):
        raise SourceError(f"{url}: serves an HTML page instead of the file (a login, quota or error page)")
    if size and total and total != size:
        raise SourceError(f"{url}: has {total} bytes instead of {size}")
    return total


def _token(url: str) -> dict[str, str]:
    """The hub's token for the hub's own addresses, and for no other host."""
    token, host = os.environ.get("HF_TOKEN", ""), urlsplit(url).hostname or ""
    if host == _HUB and os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        raise SourceError(f"{url}: not asked for, because HF_HUB_OFFLINE is set")
    return {"Authorization": f"Bearer {token}"} if token and host == _HUB else {}


def _copy(source: Path, part: Path, advance: Advance) -> None:
    if not source.is_file():
        raise SourceError(f"{source}: no such file")
    total, have = source.stat().st_size, 0
    with source.open("rb") as reader, part.open("wb") as writer:
        while block := reader.read(_BLOCK):
            writer.write(block)
            have += len(block)
            advance(have, total)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
