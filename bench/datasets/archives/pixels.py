"""From image files to memory-mapped arrays, once: decode, resize, crop, and write each row where it belongs.

Rows that are written are marked, so that a killed run goes on where it was. Grayscale, palette and CMYK images become
RGB as in the papers' loaders (``Image.convert``); resize and crop are torchvision's.
"""

import errno
import math
import os
import shutil
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from bench.datasets.archives.source import ArchiveOptions, Member, Picture, Rows
from bench.errors import UserError
from bench.progress import track

Result = TypeVar("Result")
_NAMED = 5


class BadImage(UserError):
    """An image that cannot be decoded."""


def decoder(options: ArchiveOptions) -> Callable[[str, Picture], npt.NDArray[np.uint8]]:
    """The function that turns an image's name and file (or pixels ``(h, w, 3)``) into uint8 ``(3, size, size)``."""
    shorter = options.shorter_side or options.size
    prepare = Compose([Resize(shorter, InterpolationMode(options.resize)), CenterCrop(options.size)])

    def decode(name: str, picture: Picture) -> npt.NDArray[np.uint8]:
        try:
            with Image.open(BytesIO(picture)) if isinstance(picture, bytes) else Image.fromarray(picture) as image:
                turned = ImageOps.exif_transpose(image) if options.upright else image
                return np.asarray(prepare(turned.convert("RGB"))).transpose(2, 0, 1)
        except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
            raise BadImage(f"'{name}' cannot be decoded: {error}") from error

    return decode


def fill(folder: Path, splits: Mapping[str, Rows], images: Iterable[Member], options: ArchiveOptions) -> None:
    """Write ``<split>.images.npy`` for every split into ``folder``; what an earlier run wrote there is kept.

    Args:
        folder: Belongs to these splits and options alone.
        splits: Which image each row shows.
        images: The images, in any order.
        options: How to prepare them.

    Raises:
        UserError: An image cannot be decoded, or rows name images that are not there; names them.
    """
    side = options.size
    # Marks second: they must never outlive the pixels that they vouch for.
    arrays = {
        name: _array(folder / f"{name}.images.npy", len(rows.keys), 3, side, side) for name, rows in splits.items()
    }
    marks = {name: _array(folder / f"{name}.done.npy", len(rows.keys)) for name, rows in splits.items()}
    wanted = dict[str, list[tuple[str, int]]]()
    for name, rows in splits.items():
        for row, key in enumerate(rows.keys):
            if not marks[name][row]:
                wanted.setdefault(key, []).append((name, row))
    decode, total = decoder(options), len(wanted)
    needed = ((image, places) for image in images if (places := wanted.pop(image.name, None)))
    jobs = ((image.name, image.read(), places) for image, places in track(needed, f"decoding {folder.name}", total))
    for pixels, places in in_parallel(lambda key, picture, places: (decode(key, picture), places), jobs):
        for name, row in places:
            arrays[name][row] = pixels
            marks[name][row] = 1
    if wanted:
        first = ", ".join(list(wanted)[:_NAMED])
        raise UserError(
            f"{len(wanted)} of the images that the splits name are not in the archives, first: {first}; "
            "the archives are not the published ones, or incomplete"
        )


def in_parallel(work: Callable[..., Result], jobs: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    """Results of ``work``, in the order of ``jobs``, on all cores and with few jobs in memory at a time.

    Threads do: Pillow decodes and resizes outside Python's lock.
    """
    workers = os.cpu_count() or 1
    waiting = deque[Future[Result]]()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(work, *job))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _array(path: Path, *shape: int) -> npt.NDArray[np.uint8]:
    """The array in ``path``, or a new one of zeros where there is none or its creation was cut short.

    Raises:
        OSError: The disk is too small for it; a mapped file that finds no room would end the process.
    """
    try:
        found = np.lib.format.open_memmap(path, "r+")
        if found.shape == shape:
            return found
    except (FileNotFoundError, ValueError, EOFError):
        pass
    path.unlink(missing_ok=True)
    if (needed := math.prod(shape)) > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, f"{path.name} needs {needed:,} bytes")
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
