"""What a file of a real dataset declares: where its archives come from, and what is in them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bench.config import Options
from bench.datasets.store import Prompts

Picture = bytes | npt.NDArray[np.uint8]


class File(NamedTuple):
    """One file to download.

    Attributes:
        name: Its name on disk and in a mirror, ``<dataset>/<name>``.
        urls: Where it can be had unattended, in order: the origin, mirrors, hub copies.
        size: Bytes; 0 where it is not known.
        md5: Checksum of the publisher; empty where none is known.
        sha256: Likewise. A file without any checksum is pinned to the one of its first use.
        manual: What a person must do, where no address serves it unattended.
        unpacked: Bytes that it may hold when unpacked; 0 for twenty times its size.
        about: Bytes, roughly, where the exact size is not known; for the plan only.
    """

    name: str
    urls: tuple[str, ...] = ()
    size: int = 0
    md5: str = ""
    sha256: str = ""
    manual: str = ""
    unpacked: int = 0
    about: int = 0


class ArchiveOptions(Options):
    """How images are prepared; the defaults are those of CLIP's own transform.

    Attributes:
        size: Side of the square images, in pixels.
        shorter_side: Length that an image's shorter side is resized to before the centre crop; ``size`` if not given.
            The TeCoA family takes 256.
        resize: Filter of the resize.
        upright: Turn photos upright as their EXIF data say. The papers' loaders do not.
        pins: SHA-256 of copies to accept beside the published files, by file name; for a mirror that packed anew.
        splits: Only these splits; all if empty. ``tecoa16`` is the TeCoA list, and large for some datasets.
    """

    size: int = Field(default=224, gt=0)
    shorter_side: int | None = Field(default=None, gt=0)
    resize: Literal["bicubic", "bilinear"] = "bicubic"
    upright: bool = False
    pins: dict[str, str] = Field(default={})
    splits: tuple[str, ...] = ()


class Member(NamedTuple):
    """A file in an archive: its name, and how to read it (before the next one is asked for)."""

    name: str
    read: Callable[[], Picture]


class Rows(NamedTuple):
    """One split before its images are decoded.

    Attributes:
        keys: Name of each row's image.
        labels: Class of each row; empty if the dataset has none.
        captions: Captions or questions; one per row, or with ``owners`` any number of them.
        owners: Row that each caption belongs to, where rows have several.
        answers: The same number to each question, one question after the other.
        swaps: What each row's image shows and what an attacker wants it to show, as ``bear > lion``.
    """

    keys: Sequence[str]
    labels: Sequence[int] = ()
    captions: Sequence[str] = ()
    owners: Sequence[int] = ()
    answers: Sequence[str] = ()
    swaps: Sequence[str] = ()


@dataclass(frozen=True)
class Contents:
    """What the archives of a dataset hold.

    Attributes:
        splits: Rows of each split, by name.
        images: All images under the names that the rows use; others are passed over. Read once, in any order.
        prompts: Class names and template of each protocol; the first one is the dataset's own.
        coop: The splits are CoOp's, and few-shot samples are drawn as CoOp draws them.
    """

    splits: dict[str, Rows]
    images: Iterable[Member]
    prompts: dict[str, Prompts] = field(default_factory=dict)
    coop: bool = False


@dataclass(frozen=True)
class Source:
    """A dataset as published.

    Attributes:
        folder: Folder of the archives, below ``data/archives`` and in a mirror.
        files: What to download.
        origin: Where the dataset is from, for people.
        licence: Its terms.
        redistribution: Whether they allow to pass the images on.
        read: From the archives to what they hold; None if the dataset's file does not use ``fetch_source``.
        counts: Images that each split must have.
        classes: Classes that it must have.
        questions: Questions in each split, where images have several.
    """

    folder: str
    files: tuple[File, ...]
    origin: str
    licence: str
    redistribution: bool
    read: Callable[["Opened"], Contents] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    classes: int = 0
    questions: dict[str, int] = field(default_factory=dict)


class Opened(NamedTuple):
    """The verified archives of a dataset."""

    folder: Path
    files: dict[str, File]

    def path(self, name: str) -> Path:
        """Where a file is; a folder of the same name without suffixes may take an archive's place."""
        return place_of(self.folder, name)

    def limit(self, name: str) -> int:
        """Bytes that an archive may unpack to."""
        file, path = self.files[name], self.path(name)
        return file.unpacked or max(64 << 20, 20 * (file.size or (path.stat().st_size if path.is_file() else 1 << 40)))


def place_of(folder: Path, name: str) -> Path:
    """Path of the file ``name``, or of the folder that somebody unpacked it to."""
    tree = folder / name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz").removesuffix(".zip")
    return tree if tree.is_dir() and not (folder / name).exists() else folder / name
