"""Decoding: torchvision's pixels, odd files, and rows that a killed run left."""

import errno
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.v2 import functional

from bench.datasets.archives import pixels
from bench.datasets.archives.pixels import decoder, fill
from bench.datasets.archives.source import ArchiveOptions, Member, Rows
from bench.errors import UserError
from tests.datasets.archives.packing import picture

SMALL = ArchiveOptions(size=16)


def member(name: str, content: bytes) -> Member:
    return Member(name, lambda: content)


@pytest.mark.parametrize("size", [(48, 40), (40, 49), (16, 16), (10, 90)])
@pytest.mark.parametrize("shorter", [None, 19])
def test_resize_and_crop_are_torchvisions(size: tuple[int, int], shorter: int | None) -> None:
    content = picture(1, size=size)
    expected = functional.center_crop(
        functional.resize(Image.open(BytesIO(content)), [shorter or 16], functional.InterpolationMode.BICUBIC), [16]
    )
    found = decoder(ArchiveOptions(size=16, shorter_side=shorter))("x", content)
    assert np.array_equal(found.transpose(1, 2, 0), np.asarray(expected))


def test_another_filter_gives_other_pixels() -> None:
    content = picture(1)
    bilinear = decoder(ArchiveOptions(size=16, resize="bilinear"))("x", content)
    assert not np.array_equal(bilinear, decoder(SMALL)("x", content))


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("L", "PNG"), ("RGB", "WEBP")]
)
def test_every_kind_of_image_becomes_rgb_as_pillow_converts_it(mode: str, kind: str) -> None:
    content = picture(2, mode, (16, 16), kind)
    expected = np.asarray(Image.open(BytesIO(content)).convert("RGB"))
    assert np.array_equal(decoder(SMALL)("x", content).transpose(1, 2, 0), expected)


def test_rotated_photos_stay_as_the_papers_have_them_unless_asked() -> None:
    image, file = Image.new("RGB", (16, 16)), BytesIO()
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(file, "PNG", exif=exif)
    assert decoder(SMALL)("x", file.getvalue())[0, 0, 0] == 255
    assert decoder(ArchiveOptions(size=16, upright=True))("x", file.getvalue())[0, 15, 15] == 255


@pytest.mark.parametrize("content", [b"", b"not an image", picture(1)[:300], picture(1)[:-200]])
def test_an_image_that_cannot_be_decoded_is_named_and_stops_the_fetch(tmp_path: Path, content: bytes) -> None:
    images = [member("good.jpg", picture(1)), member("class/bad.jpg", content)]
    with pytest.raises(UserError, match=r"'class/bad\.jpg' cannot be decoded"):
        fill(tmp_path, {"test": Rows(["good.jpg", "class/bad.jpg"], [0, 0])}, images, SMALL)


def test_images_that_are_not_there_are_counted_and_named(tmp_path: Path) -> None:
    keys = [f"{number}.jpg" for number in range(9)]
    with pytest.raises(UserError, match=r"8 of the images .* first: 0\.jpg, 1\.jpg"):
        fill(tmp_path, {"test": Rows(keys, [0] * 9)}, [member("8.jpg", picture(1))], SMALL)


def test_an_image_of_several_splits_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[str]()
    really = pixels.decoder
    monkeypatch.setattr(
        pixels, "decoder", lambda options: lambda name, content: (calls.append(name), really(options)(name, content))[1]
    )
    rows = {"train": Rows(["a", "b"]), "all": Rows(["b", "a", "b"])}
    fill(tmp_path, rows, [member("a", picture(1)), member("unused", b""), member("b", picture(2))], SMALL)
    train, everything = (np.load(tmp_path / f"{name}.images.npy") for name in rows)
    assert sorted(calls) == ["a", "b"]
    assert np.array_equal(everything, train[[1, 0, 1]])


def test_rows_of_an_earlier_run_are_not_read_again(tmp_path: Path) -> None:
    rows = {"test": Rows(["a", "b", "c"])}
    with pytest.raises(UserError, match="'c' cannot"):
        fill(tmp_path, rows, [member("a", picture(1)), member("b", picture(2)), member("c", b"")], SMALL)
    read = list[str]()

    def recorded(name: str, content: bytes) -> Member:
        return Member(name, lambda: (read.append(name), content)[1])

    fill(tmp_path, rows, [recorded(name, picture(row)) for row, name in enumerate("abc", 1)], SMALL)
    assert read == ["c"]
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    fill(fresh, rows, [member(name, picture(row)) for row, name in enumerate("abc", 1)], SMALL)
    assert (fresh / "test.images.npy").read_bytes() == (tmp_path / "test.images.npy").read_bytes()


@pytest.mark.parametrize("left", [b"", b"\x93NUMPY", b"rubbish" * 100])
def test_an_array_cut_short_at_its_creation_is_made_anew(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "test.images.npy").write_bytes(left)
    fill(tmp_path, {"test": Rows(["a"])}, [member("a", picture(1))], SMALL)
    assert np.load(tmp_path / "test.images.npy").any()


def test_a_disk_too_small_for_the_array_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(OSError, match="needs 768 bytes") as error:
        fill(tmp_path, {"test": Rows(["a"])}, [member("a", picture(1))], SMALL)
    assert error.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
