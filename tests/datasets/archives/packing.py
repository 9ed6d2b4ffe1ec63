"""Image files and archives for tests."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Files = Mapping[str, bytes]


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (48, 40), kind: str = "JPEG") -> bytes:
    """An image file of coarse random patches, different for each seed."""
    rng = np.random.default_rng(seed)
    channels = {"L": (), "RGB": (3,), "CMYK": (4,)}[mode]
    pixels = rng.integers(0, 256, (4, 4, *channels), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode).resize(size, Image.Resampling.BILINEAR).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, files: Files, mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(files, mode))


def tar_bytes(files: Files, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_zip(path: Path, files: Files) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_split(path: Path, **splits: list[tuple[str, int, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(splits))


def coop_split(path: Path, folders: Mapping[str, str], name_of: Callable[[str, int], str]) -> None:
    """Three training, one validation and two test images of each class."""
    rows = {
        split: [
            (name_of(folder, number), label, name)
            for label, (folder, name) in enumerate(folders.items())
            for number in numbers
        ]
        for split, numbers in (("train", (1, 2, 3)), ("val", (4,)), ("test", (5, 6)))
    }
    write_split(path, **rows)


def numbered(folders: Mapping[str, str], name_of: Callable[[str, int], str], count: int = 6) -> dict[str, bytes]:
    """The images that ``coop_split`` names, and more if ``count`` is larger."""
    names = [name_of(folder, number) for folder in folders for number in range(1, count + 1)]
    return {name: picture(row) for row, name in enumerate(names)}
