"""Which images are used: even test samples and few-shot training sets. The same on every machine."""

import numpy as np
import numpy.typing as npt

from bench.datasets.archives import coop
from bench.datasets.store import Manifest
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


def spread(count: int, size: int | None, *, between: bool = False) -> list[int]:
    """``size`` of ``count`` places, in even steps from the first one; with ``between`` those half a step behind."""
    if size is None or size >= count:
        return list(range(count))
    return [(2 * place + between) * count // (2 * size) for place in range(size)]


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


def training_sample(manifest: Manifest, labels: npt.NDArray[np.int64], shots: int, seed: int) -> Rows:
    """The few-shot training rows of a dataset: CoOp's where its splits are CoOp's, else as ``few_shot`` draws them.

    CoOp takes all images of a class that has fewer than ``shots``.

    Args:
        manifest: The dataset.
        labels: Class of every training image.
        shots: Images per class.
        seed: Seed of the run.

    Raises:
        UserError: A class has fewer images than that, and the dataset is not CoOp's.
        RuntimeError: The sample is not the one that the manifest records.
    """
    if not manifest.description.few_shot:
        return few_shot(labels, shots, seed)
    rows = coop.few_shot(labels.tolist(), (), shots, seed)[0]
    if manifest.description.few_shot.get(f"{shots}-{seed}", coop.digest(rows)) != coop.digest(rows):
        raise RuntimeError(f"{manifest.dataset}: the {shots}-shot sample of seed {seed} is not the recorded one")
    return np.sort(np.asarray(rows, np.int64))
