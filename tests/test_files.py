import errno
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.files import locked, replace_folder, sha256_of, writable, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_as_utf8_with_plain_newlines_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.json"
    write_text(path, "äöü\nzweite\n")
    assert path.read_bytes() == "äöü\nzweite\n".encode()
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(path.parent) == ["text.json"]


def test_a_failure_in_the_middle_of_writing_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "text.json"
    write_text(path, "old")
    # A lone surrogate cannot be encoded.
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["text.json"]


def test_a_disk_that_is_full_at_the_end_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text.json"
    write_text(path, "old")

    def full(_: int) -> None:
        assert path.read_text() == "old", "the old content stands until the new one is on the disk"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["text.json"]


def test_new_content_takes_the_place_of_the_old_and_is_not_written_over_it(tmp_path: Path) -> None:
    path, reader = tmp_path / "text.json", tmp_path / "whoever still has the old file open"
    write_text(path, "old")
    reader.hardlink_to(path)
    write_text(path, "new")
    assert (path.read_text(), reader.read_text()) == ("new", "old")


def test_a_failure_where_nothing_was_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "text.json", "\ud800")
    assert names(tmp_path) == []


def test_a_finished_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    source, target = tmp_path / ".new", tmp_path / "deep" / "folder"
    for round_ in ("first", "second"):
        source.mkdir()
        (source / round_).write_text(round_)
        replace_folder(source, target)
        assert names(target) == [round_], "nothing of the old folder stays"
        assert not source.exists()


def test_the_hash_is_sha256_of_the_contents_in_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"a" * (3 << 20))
    two.write_bytes(b"b")
    assert sha256_of(one) == hashlib.sha256(one.read_bytes()).hexdigest()
    assert sha256_of(one, two) == hashlib.sha256(one.read_bytes() + b"b").hexdigest()
    assert sha256_of(one, two) != sha256_of(two, one)


def test_a_lock_is_held_by_one_and_the_next_says_what_it_waits_for(tmp_path: Path, capsys) -> None:
    order = list[str]()

    def second() -> None:
        with locked(tmp_path / "locks" / ".x.lock"):
            order.append("second")

    with locked(tmp_path / "locks" / ".x.lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert "waiting: another process holds" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_told_in_one_message(tmp_path: Path, number: int) -> None:
    with pytest.raises(UserError, match="data: cannot be written to"), writable(tmp_path / "data"):
        raise OSError(number, os.strerror(number), "data/x")


def test_other_faults_of_the_disk_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), writable(tmp_path):
        raise OSError(errno.ENOSPC, "full")
