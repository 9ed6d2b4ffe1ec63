"""The Python version of CIFAR: pickled batches of 32x32 pixels, read without letting the pickle run anything."""

import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.datasets.archives.lists import prompts
from bench.datasets.archives.members import texts
from bench.datasets.archives.source import Contents, Member, Opened, Rows
from bench.errors import UserError

# All that a batch needs: NumPy's way to rebuild an array, and bytes as Python 3 pickles them for Python 2.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which no batch of CIFAR needs")
        return super().find_class(module_name.replace("numpy.core", "numpy._core"), global_name)


def read_cifar(opened: Opened, archive: str, batches: Mapping[str, tuple[str, ...]], label: str, meta: str) -> Contents:
    """What a CIFAR archive holds.

    Args:
        opened: The dataset's archives.
        archive: Name of the tar file.
        batches: Files of each split.
        label: Key of the labels in a batch.
        meta: File and key of the class names, as ``<file>:<key>``.

    Raises:
        UserError: A file is missing, or is not what it should be.
    """
    file, key = meta.split(":")
    parts = [file, *(part for some in batches.values() for part in some)]
    unpickled = {
        part: _unpickle(content, f"{opened.path(archive)}: {part}")
        for part, content in zip(parts, texts(opened, archive, *parts), strict=True)
    }
    names = [name.decode() for name in unpickled[file][key.encode()]]
    splits, images = dict[str, Rows](), list[Member]()
    for split, parts in batches.items():
        keys, labels = list[str](), list[int]()
        for part in parts:
            content = unpickled[part]
            pixels = np.asarray(content[b"data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            keys += (some := [f"{part}/{row}" for row in range(len(pixels))])
            labels += [int(number) for number in content[label.encode()]]
            images += [Member(name, _reader(picture)) for name, picture in zip(some, pixels, strict=True)]
        splits[split] = Rows(keys, labels)
    splits["tecoa16"] = splits["test"]
    return Contents(splits, images, prompts(names, tecoa16="This is a photo of a {}.", r_adapt="a photo of a {}"))


def _reader(picture: npt.NDArray[np.uint8]) -> Any:
    return lambda: picture


def _unpickle(content: bytes, where: str) -> dict[bytes, Any]:
    try:
        return _Reader(io.BytesIO(content), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{where} is not a batch of CIFAR: {error}") from error
