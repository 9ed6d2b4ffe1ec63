"""Which images are used: even test samples and few-shot training sets. The same on every machine."""

import numpy as np
import numpy.typing as npt

from bench.datasets.world import Dice
from bench.errors import UserError

Rows = npt.NDArray[np.int64]


def even_sample(labels: npt.NDArray[np.int64], size: int | None) -> Rows:
    """The first ``size`` images, taken from the classes in turn; all images if ``size`` is None.

    Args:
        labels: Class of every image of the split.
        size: How many to take.
    """
    if size is None or size >= len(labels):
        return np.arange(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        turn[rows] = np.arange(len(rows))
    return np.sort(np.lexsort((labels, turn))[:size])


def few_shot(labels: npt.NDArray[np.int64], shots: int, seed: int) -> Rows:
    """``shots`` images of every class, drawn with ``seed``.

    Raises:
        UserError: A class has fewer images than that.
    """
    chosen = list[Rows]()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < shots:
            raise UserError(f"{shots} shots per class are asked, but class {label} has {len(rows)} training images")
        chosen.append(rows[Dice(seed, int(label), 501).order(len(rows))[:shots]])
    return np.sort(np.concatenate(chosen))
