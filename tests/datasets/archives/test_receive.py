"""Downloads: resumed, verified, from several sources, and never half done under the final name."""

import errno
import hashlib
import io
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from bench.datasets.archives import download, receive
from bench.datasets.archives.receive import read_receipt
from bench.datasets.archives.source import File
from bench.errors import UserError
from bench.files import sha256_of
from tests.datasets.archives.conftest import Server

CONTENT = bytes(range(256)) * 4096
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data/archives/pets"


@pytest.fixture
def served(server: Server) -> File:
    """A file with its checksum, on a server."""
    (server.root / "images.tar").write_bytes(CONTENT)
    return File("images.tar", (f"{server.url}/images.tar",), len(CONTENT), md5=MD5)


def get(file: File, folder: Path, pin: str = "") -> Path:
    receive.receive([file], folder, {file.name: pin} if pin else {})
    return folder / file.name


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def refused(file: File, folder: Path, pin: str = "") -> str:
    """The message of a file that must not be accepted, and must not lie there as if it were."""
    before = visible(folder) if folder.exists() else []
    with pytest.raises(UserError) as error:
        get(file, folder, pin)
    assert visible(folder) == before
    assert not any(path.name.endswith(".part") for path in folder.iterdir())
    return " ".join(str(error.value).split())


def test_a_file_arrives_with_a_receipt_and_is_not_asked_for_again(served: File, folder: Path, server: Server) -> None:
    path = get(served, folder)
    assert path.read_bytes() == CONTENT
    receipt = read_receipt(folder, served.name)
    assert receipt is not None
    assert (receipt.sha256, receipt.size, receipt.url) == (SHA256, len(CONTENT), served.urls[0])
    get(served, folder)
    assert len(server.asked) == 1


def test_a_dropped_connection_goes_on_where_it_was(served: File, folder: Path, server: Server) -> None:
    server.drops["images.tar"] = [0.3, 0.6, 0.6]
    assert get(served, folder).read_bytes() == CONTENT
    starts = [int(span.removeprefix("bytes=").rstrip("-") or 0) for _, span in server.asked]
    assert starts[0] == 0
    assert 0.2 * len(CONTENT) < starts[1] <= 0.3 * len(CONTENT)
    assert starts == sorted(starts)


def test_a_server_without_ranges_starts_anew(served: File, folder: Path, server: Server) -> None:
    server.no_ranges, server.drops["images.tar"] = True, [0.5]
    assert get(served, folder).read_bytes() == CONTENT


def test_a_part_of_an_earlier_run_is_used(served: File, folder: Path, server: Server) -> None:
    folder.mkdir(parents=True)
    (folder / ".images.tar.part").write_bytes(CONTENT[:1000])
    assert get(served, folder).read_bytes() == CONTENT
    assert server.asked == [("images.tar", "bytes=1000-")]


def test_a_part_that_was_complete_only_lacks_its_name(served: File, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / ".images.tar.part").write_bytes(CONTENT)
    assert get(served, folder).read_bytes() == CONTENT


@pytest.mark.parametrize("rubbish", [b"x" * 500, b"x" * (len(CONTENT) + 5)])
def test_a_wrong_part_is_fetched_anew(served: File, folder: Path, rubbish: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / ".images.tar.part").write_bytes(rubbish)
    assert get(served, folder).read_bytes() == CONTENT


def test_parts_of_two_addresses_are_not_joined_without_a_checksum(server: Server, folder: Path) -> None:
    (server.root / "a").write_bytes(b"a" * 1000)
    (server.root / "b").write_bytes(b"b" * 1000)
    folder.mkdir(parents=True)
    (folder / ".x.part").write_bytes(b"a" * 300)
    (folder / ".x.part.url").write_text(f"{server.url}/a")
    assert get(File("x", (f"{server.url}/b",)), folder).read_bytes() == b"b" * 1000


def test_a_file_that_changed_meanwhile_is_fetched_whole(server: Server, folder: Path, monkeypatch) -> None:
    (server.root / "x").write_bytes(b"a" * 1000)
    server.drops["x"] = [0.5]

    def change(seconds: float) -> None:
        (server.root / "x").write_bytes(b"b" * 1000)

    monkeypatch.setattr(download.time, "sleep", change)
    assert get(File("x", (f"{server.url}/x",)), folder).read_bytes() == b"b" * 1000


def test_a_busy_server_is_asked_again(served: File, folder: Path, server: Server) -> None:
    server.answers["images.tar"] = [503, 429, 500]
    assert get(served, folder).read_bytes() == CONTENT
    assert len(server.asked) == 4


def test_the_waits_grow_up_to_a_limit(served: File, folder: Path, server: Server, monkeypatch) -> None:
    waits = list[float]()
    monkeypatch.setattr(download.time, "sleep", waits.append)
    monkeypatch.setattr(download, "FIRST_WAIT", 20.0)
    server.answers["images.tar"] = [503] * 5
    get(served, folder)
    assert waits == [20.0, 40.0, 60.0, 60.0, 60.0]


def test_after_many_failures_the_next_source_serves(served: File, folder: Path, server: Server) -> None:
    server.answers["dead"] = [500] * 100
    file = served._replace(urls=(f"{server.url}/dead", f"{server.url}/gone", *served.urls))
    get(file, folder)
    receipt = read_receipt(folder, file.name)
    assert receipt is not None
    assert receipt.url == served.urls[0]
    assert [path for path, _ in server.asked] == ["dead"] * download.ATTEMPTS + ["gone", "images.tar"]


def test_the_mirror_is_asked_first_and_its_layout_is_dataset_and_file(served: File, folder: Path, server, monkeypatch):
    monkeypatch.setenv("BENCH_MIRROR", f"{server.url}/lab/")
    (server.root / "lab/pets").mkdir(parents=True)
    (server.root / "lab/pets/images.tar").write_bytes(CONTENT)
    get(served, folder)
    assert [path for path, _ in server.asked] == ["lab/pets/images.tar"]


def test_a_folder_is_a_mirror_too_and_what_it_lacks_comes_from_the_origin(
    served, folder, server, tmp_path, monkeypatch
):
    (tmp_path / "lab/pets").mkdir(parents=True)
    (tmp_path / "lab/pets/other.bin").write_bytes(b"other")
    monkeypatch.setenv("BENCH_MIRROR", str(tmp_path / "lab"))
    receive.receive([served, File("other.bin")], folder, {})
    assert visible(folder) == ["images.tar", "other.bin"]
    assert len(server.asked) == 1


def test_a_wrong_checksum_is_refused(served: File, folder: Path) -> None:
    message = refused(served._replace(md5="0" * 32), folder)
    assert "wrong checksum" in message
    assert SHA256 in message
    assert "pins" in message


def test_a_wrong_size_is_refused_before_the_download(served: File, folder: Path) -> None:
    assert f"has {len(CONTENT)} bytes instead of 7" in refused(served._replace(size=7), folder)


def test_a_pin_accepts_the_copy_that_it_names_and_no_other(served: File, folder: Path) -> None:
    other = served._replace(md5="0" * 32, size=7)
    assert "wrong checksum" in refused(other, folder, pin="1" * 64)
    assert get(other, folder, pin=SHA256).exists()


def test_beside_a_pin_the_published_file_is_as_good(served: File, folder: Path) -> None:
    assert get(served, folder, pin="1" * 64).exists()
    assert get(served, folder, pin="1" * 64).exists()


def test_where_nothing_is_published_the_pin_alone_decides(served: File, folder: Path) -> None:
    unknown = served._replace(md5="", size=0)
    get(unknown, folder)
    message = refused(unknown, folder, pin="1" * 64)
    assert "1" * 64 in message


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_an_html_page_is_told_as_such(server: Server, folder: Path, kind: str) -> None:
    (server.root / "page").write_bytes(b"\n<!DOCTYPE html><title>Quota exceeded</title>")
    server.types["page"] = kind
    assert "HTML page instead of" in refused(File("images.tar", (f"{server.url}/page",)), folder)


def test_a_file_without_a_checksum_is_pinned_at_first_use(server: Server, folder: Path) -> None:
    (server.root / "x").write_bytes(b"first")
    file = File("x", (f"{server.url}/x",))
    get(file, folder).unlink()
    (server.root / "x").write_bytes(b"second")
    assert "wrong checksum" in refused(file, folder)
    (server.root / "x").write_bytes(b"first")
    get(file, folder)


def test_a_file_placed_by_hand_is_verified(served: File, folder: Path, server: Server) -> None:
    folder.mkdir(parents=True)
    (folder / "images.tar").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"delete .*images\.tar and fetch again"):
        get(served, folder)
    (folder / "images.tar").write_bytes(CONTENT)
    get(served, folder)
    assert not server.asked


def test_a_file_changed_after_its_receipt_is_noticed(served: File, folder: Path) -> None:
    path = get(served, folder)
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(UserError, match="wrong checksum"):
        get(served, folder)


def test_what_needs_a_person_says_what_to_do_for_all_files_at_once(folder: Path) -> None:
    files = [File("a.tar", md5=MD5, size=10, manual="log in at x"), File("b.tar", manual="ask y")]
    with pytest.raises(UserError) as error:
        receive.receive(files, folder, {})
    message = str(error.value)
    for part in ("log in at x", f"put a.tar (10 bytes, md5 {MD5}) into {folder}/", "ask y", "BENCH_MIRROR"):
        assert part in message


def test_the_hub_gets_the_token_and_no_other_host_does(monkeypatch) -> None:
    asked = dict[str, dict[str, str]]()

    def answer(url: str, headers: dict[str, str], **_: object) -> requests.Response:
        asked[url] = headers
        response = requests.Response()
        response.status_code, response.raw = 403, io.BytesIO()
        return response

    monkeypatch.setattr(requests, "get", answer)
    monkeypatch.setenv("HF_TOKEN", "secret")
    for url in ("https://huggingface.co/x", "https://huggingface.co.example/x"):
        with pytest.raises(download.SourceError, match="access refused"):
            download.download(url, Path("never-written"), 0, lambda have, total: None)
    assert asked["https://huggingface.co/x"]["Authorization"] == "Bearer secret"
    assert "Authorization" not in asked["https://huggingface.co.example/x"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(download.SourceError, match="HF_HUB_OFFLINE"):
        download.download("https://huggingface.co/x", Path("never-written"), 0, lambda have, total: None)


def test_two_fetches_at_once_download_once(served: File, folder: Path, server: Server) -> None:
    server.drops["images.tar"] = [0.5]
    threads = [threading.Thread(target=get, args=(served, folder)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (folder / "images.tar").read_bytes() == CONTENT
    assert len(server.asked) == 2, "one download in two pieces"


def test_a_disk_too_small_is_told_before_anything_is_written(served: File, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(OSError, match="needs") as error:
        get(served, folder)
    assert error.value.errno == errno.ENOSPC
    assert visible(folder) == []


def test_a_disk_that_fills_up_keeps_the_part_and_the_next_run_goes_on(served, folder, server, monkeypatch) -> None:
    really = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        get(served, folder)
    assert visible(folder) == []
    monkeypatch.setattr(os, "fsync", really)
    assert get(served, folder).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_told(served: File, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot be written to"):
        get(served, tmp_path / "data/archives/pets")


def test_several_files_arrive_together(server: Server, folder: Path) -> None:
    files = []
    for number in range(9):
        (server.root / f"{number}.bin").write_bytes(bytes([number]) * 1000)
        files.append(File(f"{number}.bin", (f"{server.url}/{number}.bin",)))
    receipts = receive.receive(files, folder, {})
    assert {name: receipt.sha256 for name, receipt in receipts.items()} == {
        file.name: sha256_of(server.root / file.name) for file in files
    }
