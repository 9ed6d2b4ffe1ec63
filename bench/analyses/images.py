"""Which images a suite's numbers stand on: every one that a defense is tuned on or that a cell tests, by its name.

The index of a table, to be kept in git beside it: one line for each image of each use. ``manifest`` begins the hash by
which every record knows the dataset, so the lines can be held against the records.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from bench.analyses.contract import Source
from bench.config import Options as Closed
from bench.config import Suite, Track
from bench.datasets.halves import part_of
from bench.datasets.sampling import Rows, even_sample, training_sample
from bench.datasets.store import Manifest, Split, open_split, read_manifest
from bench.items import load_item

DIGITS = 16


class Options(Closed):
    """No choices: all tracks of the suite."""


class Use(NamedTuple):
    """Some images of a dataset, and what for.

    Attributes:
        dataset: Its id.
        split: As the suite names it.
        shots: Images of each class that a defense is tuned on; 0 where images are tested.
        seed: Of the few-shot sample; 0 where images are tested.
        size: Images that are tested, evenly over the classes; None for all.
    """

    dataset: str
    split: str
    shots: int = 0
    seed: int = 0
    size: int | None = None

    @property
    def name(self) -> str:
        """For people."""
        if self.shots:
            return f"tuning, {self.shots} shots, seed {self.seed}"
        return "test" if self.size is None else f"test, {self.size} images"


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each image of each use: its row in the split, its published name and its class."""
    del options
    parts = list[pd.DataFrame]()
    for use in dict.fromkeys(_uses(source)):
        manifest = read_manifest(source.paths.data, use.dataset)
        split = open_split(source.paths.data, manifest, part_of(manifest, use.split).split)
        rows = _rows(use, manifest, split)
        parts.append(
            pd.DataFrame(
                {
                    "dataset": use.dataset,
                    "manifest": manifest.digest[:DIGITS],
                    "split": use.split,
                    "use": use.name,
                    "row": rows,
                    "image": [split.names[row] for row in rows] if len(split.names) else "",
                    "class": [manifest.description.class_names[label] for label in split.labels[rows]],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def table(frame: pd.DataFrame, options: Options) -> str:
    """How many images each use has; their names stand in the CSV."""
    del options
    keys = ["dataset", "manifest", "split", "use"]
    lines = [[*key, f"{len(part):,}", f"{part['class'].nunique():,}"] for key, part in frame.groupby(keys, sort=False)]
    return tabulate(lines, [*keys, "images", "classes"], tablefmt="pipe", disable_numparse=True)


def _uses(source: Source) -> Iterator[Use]:
    suite = source.suite
    for name, track in suite.tracks.items():
        for defense in track.defenses:
            if _reads_labels(track, defense, source.where):
                yield from _tunings(suite, name, defense)
        for dataset in track.datasets:
            for split in track.splits:
                for attack in track.attacks:
                    yield Use(dataset, split, size=suite.attacks[attack].sample(dataset))


def _tunings(suite: Suite, track: str, defense: str) -> Iterator[Use]:
    for dataset in suite.tracks[track].tuning_datasets(defense):
        for seed in suite.protocol.seeds:
            yield Use(dataset, "train", suite.shots(track, defense), seed)


def _reads_labels(track: Track, defense: str, where: str) -> bool:
    parts = track.method(defense).split("+")
    return any(load_item("defenses", part, where).TUNES_ON == "labels" for part in parts)


def _rows(use: Use, manifest: Manifest, split: Split) -> Rows:
    if use.shots:
        return training_sample(manifest, split.labels, use.shots, use.seed)
    classes = part_of(manifest, use.split).classes
    there = np.flatnonzero((split.labels >= classes.start) & (split.labels < classes.stop))
    return there[even_sample(split.labels[there], use.size)]
