"""A loopback server that answers ranges, and misbehaves where a test asks it to."""

import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.datasets.archives import download


@dataclass
class Server:
    """Files by path, faults by path, and what was asked.

    Attributes:
        drops: Shares of the body after which the next connections end.
        answers: Status codes of the next answers.
        types: Content type, by path.
        no_ranges: Serve whole files only.
        asked: Path and range of every request.
    """

    root: Path
    url: str = ""
    drops: dict[str, list[float]] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    no_ranges: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serves ``tmp_path/mirror``."""
    state = Server(tmp_path / "mirror")
    state.root.mkdir()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, span = self.path.lstrip("/"), self.headers.get("Range", "")
            state.asked.append((path, span))
            if state.answers.get(path):
                return self._end(state.answers[path].pop(0))
            if not (state.root / path).is_file():
                return self._end(404)
            content = (state.root / path).read_bytes()
            tag = f'"{zlib.crc32(content)}"'
            if self.headers.get("If-Range", tag) != tag:
                span = ""
            start = int(span.removeprefix("bytes=").rstrip("-")) if span and not state.no_ranges else 0
            if start and start >= len(content):
                return self._end(416, {"Content-Range": f"bytes */{len(content)}"})
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", tag)
            self.send_header("Content-Type", state.types.get(path, "application/octet-stream"))
            self.end_headers()
            share = state.drops[path].pop(0) if state.drops.get(path) else 1.0
            self.wfile.write(content[start : max(start, int(share * len(content)))])
            if share < 1:
                self.wfile.flush()
                self.close_connection = True

        def _end(self, code: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": "0", **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    listener.shutdown()
    listener.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mirror or token of the developer's, and short waits."""
    for name in ("BENCH_MIRROR", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "FIRST_WAIT", 0.01)
