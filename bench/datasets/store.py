"""Images on disk: one memory-mapped uint8 array per split, described by a small manifest.

``data/<dataset>/<split>.images.npy`` holds uint8 ``(n, 3, h, w)`` after resize and crop, ``<split>.labels.npy`` int64
class indices or ``<split>.captions.json`` sentences, with ``<split>.owners.npy`` where an image has several. Real
datasets keep captions, file names and answers as ``<split>.<what>.txt``, one per line.
``data/manifests/<dataset>.json`` is what pipelines depend on.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bench.config import Options
from bench.datasets.archives.lines import Lines
from bench.errors import UserError
from bench.files import locked, replace_folder, sha256_of, writable, write_text

if TYPE_CHECKING:  # importing torch takes longer than to render a small dataset
    from torch import Tensor

MANIFEST_VERSION = 1


class Prompts(Options):
    """How a protocol names the classes, and the template that it puts the names into."""

    class_names: tuple[str, ...]
    template: str


def _is_empty(value: object) -> bool:
    return not value


class Description(Options):
    """What a dataset file says about its dataset. What only real datasets have is left out where it is empty.

    Attributes:
        class_names: Names of the classes, in the order of their labels.
        template: Prompt with ``{}`` for the class name.
        source: Where the dataset is from.
        licence: Its terms.
        redistribution: Whether they allow to pass the images on.
        prompts: Class names and template of each protocol; the first is the one above.
        few_shot: Digests of CoOp's few-shot samples, by ``<shots>-<seed>``; a dataset without them is sampled evenly.
        base_classes: The first so many classes are the base half, the others the new half (CoOp's base-to-new).
        left_out: Image-caption pairs that were dropped because their image is missing or damaged.
        archives: SHA-256 of the files that the images came from; not part of the manifest's digest.
    """

    class_names: tuple[str, ...]
    template: str
    source: str
    licence: str
    redistribution: bool
    prompts: dict[str, Prompts] = Field(default={}, exclude_if=_is_empty)
    few_shot: dict[str, str] = Field(default={}, exclude_if=_is_empty)
    base_classes: int = Field(default=0, exclude_if=_is_empty)
    left_out: int = Field(default=0, exclude_if=_is_empty)
    archives: dict[str, str] = Field(default={}, exclude_if=_is_empty)


class SplitEntry(Options):
    """One split in the manifest: how many images, how many of each class, and the hash of every file."""

    count: int
    per_class: tuple[int, ...]
    files: dict[str, str]


class Manifest(Options):
    """The whole of ``data/manifests/<dataset>.json``."""

    version: int = MANIFEST_VERSION
    dataset: str
    options: dict[str, Any]
    description: Description
    splits: dict[str, SplitEntry]

    @cached_property
    def digest(self) -> str:
        """Hash that stands for the exact images, labels and splits, from whatever archives they were read."""
        content = self.model_dump_json(exclude={"description": {"archives"}, "options": {"pins"}})
        return hashlib.sha256(content.encode()).hexdigest()


class Split(NamedTuple):
    """Images with what belongs to them; whatever the dataset does not have is empty.

    Attributes:
        images: uint8 ``(n, 3, h, w)``.
        labels: int64 class indices ``(n,)``.
        captions: One per image; or, with ``owners``, several, or questions about images.
        owners: Row of the image that each caption belongs to, where images have several.
        answers: The same number for each question in ``captions`` (VQAv2 has ten), one question after the other.
        names: File name of each image, as published.
        swaps: What each image shows and what an attacker wants it to show, as ``bear > lion``.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    captions: Sequence[str]
    owners: npt.NDArray[np.int64] = np.empty(0, np.int64)
    answers: Sequence[str] = ()
    names: Sequence[str] = ()
    swaps: Sequence[str] = ()

    def batch(self, rows: Sequence[int] | npt.NDArray[np.int64] | slice) -> "Tensor":
        """Images as the models take them: float32 in [0,1], ``(n, 3, h, w)``."""
        import torch

        return torch.tensor(np.asarray(self.images[rows])).float().div_(255)

    def targets(self, rows: Sequence[int] | npt.NDArray[np.int64] | slice) -> "Tensor":
        """Class indices of ``rows``, int64."""
        import torch

        return torch.from_numpy(np.array(self.labels[rows]))


def write_split(
    folder: Path,
    name: str,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64] | None = None,
    captions: Sequence[str] | None = None,
    owners: npt.NDArray[np.int64] | None = None,
) -> None:
    """Write one split into ``folder``; called by dataset files."""
    np.save(folder / f"{name}.images.npy", images)
    if labels is not None:
        np.save(folder / f"{name}.labels.npy", labels)
    if owners is not None:
        np.save(folder / f"{name}.owners.npy", owners)
    if captions is not None:
        (folder / f"{name}.captions.json").write_text(json.dumps(list(captions), indent=0), "utf-8")


def build(dataset: str, options: Options, fetch: Any, data: Path) -> Manifest:
    """Fetch ``dataset`` into ``data`` and write its manifest.

    Everything is made in a scratch folder and moved into place at the end, so a killed fetch leaves nothing that looks
    complete.

    Args:
        dataset: Id of the dataset, the name of its file in ``bench/datasets``.
        options: The dataset file's own options.
        fetch: The dataset file's ``fetch(options, folder) -> Description``.
        data: Folder for the images and manifests.
    """
    scratch, path = data / f".{dataset}.partial", _manifest_path(data, dataset)
    with writable(data), locked(path.with_name(f".{dataset}.lock")):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        description: Description = fetch(options, scratch)
        names = sorted(path.name.removesuffix(".images.npy") for path in scratch.glob("*.images.npy"))
        splits = {name: _describe(scratch, name, len(description.class_names)) for name in names}
        manifest = Manifest(
            dataset=dataset, options=options.model_dump(mode="json"), description=description, splits=splits
        )
        replace_folder(scratch, data / dataset)
        write_text(path, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def read_manifest(data: Path, dataset: str) -> Manifest:
    """The manifest of a fetched dataset.

    Raises:
        UserError: The dataset has not been fetched.
    """
    path = _manifest_path(data, dataset)
    if not path.exists():
        raise UserError(f"{path} is missing: dataset '{dataset}' has not been fetched; run `bench fetch {dataset}`")
    return Manifest.model_validate_json(path.read_text("utf-8"))


def open_split(data: Path, manifest: Manifest, name: str) -> Split:
    """Open a split after checking every file of it against the manifest.

    Raises:
        UserError: The split does not exist, or a file is missing or is not the one that the manifest describes.
    """
    if name not in manifest.splits:
        raise UserError(f"dataset '{manifest.dataset}' has no split '{name}'; it has {', '.join(manifest.splits)}")
    folder = data / manifest.dataset
    for file, digest in manifest.splits[name].files.items():
        if not (folder / file).exists() or _digest(folder / file) != digest:
            raise UserError(
                f"{folder / file} is missing or differs from its manifest; run `bench fetch {manifest.dataset}`"
            )
    captions = folder / f"{name}.captions.json"
    return Split(
        # Copy on write: torch shares such an array without a copy in memory, and nothing changes on disk.
        images=np.load(folder / f"{name}.images.npy", mmap_mode="c"),
        labels=_rows(folder / f"{name}.labels.npy"),
        captions=json.loads(captions.read_text("utf-8")) if captions.exists() else _lines(captions.with_suffix(".txt")),
        owners=_rows(folder / f"{name}.owners.npy"),
        answers=_lines(folder / f"{name}.answers.txt"),
        names=_lines(folder / f"{name}.names.txt"),
        swaps=_lines(folder / f"{name}.swaps.txt"),
    )


def _digest(path: Path) -> str:
    state = path.stat()
    return _digest_as_of(path.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _digest_as_of(path: Path, size: int, mtime_ns: int) -> str:
    """Large arrays are hashed once in a process, not for every cell that opens them."""
    del size, mtime_ns
    return sha256_of(path)


def _rows(path: Path) -> npt.NDArray[np.int64]:
    return np.load(path) if path.exists() else np.empty(0, np.int64)


def _lines(path: Path) -> Sequence[str]:
    return Lines(path) if path.exists() else []


def _manifest_path(data: Path, dataset: str) -> Path:
    return data / "manifests" / f"{dataset}.json"


def _describe(folder: Path, name: str, classes: int) -> SplitEntry:
    files = sorted(path for path in folder.iterdir() if path.name.startswith(f"{name}."))
    labels = folder / f"{name}.labels.npy"
    per_class = tuple(np.bincount(np.load(labels), minlength=classes).tolist()) if labels.exists() else ()
    count = len(np.load(folder / f"{name}.images.npy", mmap_mode="r"))
    return SplitEntry(count=count, per_class=per_class, files={path.name: sha256_of(path) for path in files})
