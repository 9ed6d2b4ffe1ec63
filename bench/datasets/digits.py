"""Scikit-learn's 1,797 real handwritten digits (UCI, Alpaydin and Kaynak, CC BY 4.0), enlarged from 8x8 to 32x32.

Half of the images are for training (the mini CLIP was pretrained on that half too); the other half is split into
``val`` and ``test``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from bench.config import Options as Closed
from bench.datasets import world
from bench.datasets.store import Description, write_split

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TRAIN, _VAL = 898, 199


class Options(Closed):
    """No choices: the images are what they are."""


def fetch(options: Options, folder: Path) -> Description:
    """Write the three splits into ``folder``."""
    del options
    for name, (grey, labels) in _splits().items():
        enlarged = np.stack([enlarge(image, world.SIDE) for image in grey])
        write_split(folder, name, np.repeat(enlarged[:, None], 3, axis=1), labels)
    return Description(
        class_names=CLASS_NAMES,
        template="a photo of the digit {}.",
        source="sklearn.datasets.load_digits",
        licence="CC-BY-4.0",
        redistribution=True,
    )


def training_half() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The 898 training images, uint8 ``(898, 8, 8)``, and their digits."""
    return _splits()["train"]


def enlarge(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """``image`` resized to ``side`` pixels; Pillow resizes 8-bit images in whole numbers, so bytes agree everywhere."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def _splits() -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    bunch: Any = load_digits()
    grey = (np.asarray(bunch.images).astype(np.int64) * 255 // 16).astype(np.uint8)
    labels = np.asarray(bunch.target).astype(np.int64)
    # The original order goes by writer; mixing puts every writer into every split.
    order = world.Dice(201).order(len(labels))
    bounds = {"train": order[:_TRAIN], "val": order[_TRAIN : _TRAIN + _VAL], "test": order[_TRAIN + _VAL :]}
    return {name: (grey[rows], labels[rows]) for name, rows in bounds.items()}
