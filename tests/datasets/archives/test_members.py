"""Archives from anywhere: read in memory, and refused where they are unsafe, damaged or larger than they should be."""

import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from bench.datasets.archives.members import members, texts
from bench.datasets.archives.source import File, Opened
from bench.errors import UserError
from tests.datasets.archives.packing import tar_bytes, write_zip

FILES = {"top/a.txt": b"a" * 300, "top/deep/b.txt": b"b"}


def opened(path: Path, unpacked: int = 0) -> Opened:
    return Opened(path.parent, {path.name: File(path.name, unpacked=unpacked)})


def read(path: Path, unpacked: int = 0, below: str = "") -> dict[str, bytes]:
    return {member.name: bytes(member.read()) for member in members(opened(path, unpacked), path.name, below=below)}


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "nested", "folder"])
def test_all_kinds_of_archives_read_alike(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        write_zip(path, FILES)
    elif kind == "nested":
        write_zip(path, {"outer/inner.tar.gz": tar_bytes(FILES, "w:gz")})
    elif kind == "folder":
        path = tmp_path / "top"
        for name, content in FILES.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    else:
        path.write_bytes(tar_bytes(FILES, "w:gz" if kind == "tar.gz" else "w"))
    assert read(path) == FILES
    assert read(path, below="top/deep") == {"b.txt": b"b"}
    assert texts(opened(path), path.name, "deep/b.txt", "a.txt") == [b"b", b"a" * 300]
    assert list(tmp_path.iterdir()) == [path], "nothing is unpacked"


def test_tars_in_a_tar_are_gone_into(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(
        tar_bytes({"n1.tar": tar_bytes({"n1_1.jpg": b"1"}), "n2.tar": tar_bytes({"z": b""})})
    )
    assert read(tmp_path / "x.tar") == {"n1_1.jpg": b"1", "z": b""}


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "C:/evil", "a\\..\\evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "tar":
        path.write_bytes(tar_bytes({name: b"x"}))
    else:
        write_zip(path, {name: b"x"})
    with pytest.raises(UserError, match=r"x\.\w+: the name .* leads out of the archive"):
        read(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("top/link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(UserError, match=r"x\.tar: 'top/link' is a link or device"):
        read(tmp_path / "x.tar")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        read(tmp_path / "x.zip")


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_bomb_is_stopped_at_its_declared_size(tmp_path: Path, kind: str) -> None:
    path, zeros = tmp_path / f"x.{kind}", {"small": b"", "large": bytes(3 << 20)}
    if kind == "zip":
        write_zip(path, zeros)
    else:
        path.write_bytes(tar_bytes(zeros, "w:gz"))
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match=r"unpacks to more than the 1,000,000 bytes .*at 'large'"):
        read(path, unpacked=1_000_000)
    assert len(read(path, unpacked=4_000_000)) == 2


def test_without_a_declared_size_it_is_twenty_times_the_archive(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(bytes(10 << 20))
    assert opened(tmp_path / "x.tar").limit("x.tar") == 200 << 20


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_an_archive_cut_short_is_told(tmp_path: Path, kind: str, share: float) -> None:
    noise = random.Random(0).randbytes(20_000)
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        write_zip(path, {"a": noise})
    else:
        path.write_bytes(tar_bytes({"a": noise}, "w:gz" if kind == "tar.gz" else "w"))
    path.write_bytes(path.read_bytes()[: 100 + int(share * len(noise))])
    with pytest.raises(UserError, match=r"x\.\S+ is damaged or cut short .*delete it and fetch again"):
        read(path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(tar_bytes({"a": Path(__file__).read_bytes()}, "w:gz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read(path)


def test_a_file_that_is_not_in_the_archive_is_named(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", FILES)
    with pytest.raises(UserError, match=r"x\.zip: meta/test\.json is not in it"):
        texts(opened(tmp_path / "x.zip"), "x.zip", "a.txt", "meta/test.json")
