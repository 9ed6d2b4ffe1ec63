"""Reading ``cells.csv`` for figures: values with their intervals, and the settings that they vary with."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from bench.analyses.contract import Source
from bench.analyses.subjects.models import defense_parts
from bench.analyses.subjects.references import CellReference
from bench.errors import UserError, unknown
from bench.leaderboard.verify import read_cells

# What a figure needs to know of a cell.
COLUMNS = [
    "defense",
    "checkpoint",
    "metric",
    "attack",
    "threat_model",
    "seed",
    "state",
    "n",
    "hits",
    "value",
    "low",
    "high",
]


def readings(
    source: Source, reference: CellReference, defenses: Iterable[str], metrics: Iterable[str], key: str
) -> pd.DataFrame:
    """The cells that a figure shows, with the columns ``COLUMNS``, in the order of ``cells.csv``.

    Args:
        source: Where ``cells.csv`` is.
        reference: Which cells.
        defenses: Ids of the defenses.
        metrics: Such as ``ASR`` and ``CA``; robust accuracy needs the reference's attacks too.
        key: Where the reference stands among the options, for messages.

    Raises:
        UserError: ``cells.csv`` is missing or damaged, or lacks a defense on a checkpoint, or such a cell of an attack.
    """
    cells, wanted = read_cells(source.paths.boards / "cells.csv"), list(defenses)
    checkpoints = reference.checkpoints_in(source.suite)
    found = cells[
        (cells["track"] == reference.track)
        & (cells["dataset"] == reference.dataset)
        & (cells["split"] == reference.split)
        & cells["checkpoint"].isin(checkpoints)
        & cells["defense"].isin(wanted)
        & cells["metric"].isin(list(metrics))
        # The worst case over attacks repeats what is told already.
        & ((cells["threat_model"] == "none") | cells["attack"].isin(reference.attacks))
    ]
    there = set(zip(found["defense"], found["checkpoint"], found["attack"], strict=True))
    there |= {(name, checkpoint, "") for name, checkpoint, _ in there}
    lost = [
        f"{name} on {checkpoint}{f' under {attack}' if attack else ''}"
        for name in wanted
        for checkpoint in checkpoints
        for attack in reference.attacks or ("",)
        if (name, checkpoint, attack) not in there
    ]
    if lost:
        raise UserError(
            f"{source.where}.{key}: {source.paths.boards / 'cells.csv'} has no cells of {', '.join(lost)} in track "
            f"'{reference.track}' on {reference.dataset} ({reference.split}); make it again with: bench collect"
        )
    return found[COLUMNS].reset_index(drop=True)


def over_seeds(found: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One line for each group: the mean value over seeds, and an interval that spans those of all seeds.

    Args:
        found: Readings; a group with a value that is missing has none.
        by: Columns that tell the groups apart.
    """
    groups = found.groupby(by, sort=False)
    numbers = groups.agg(value=("value", "mean"), low=("low", "min"), high=("high", "max"))
    return numbers.where(groups["value"].count() == groups.size()).reset_index()


def setting(source: Source, track: str, defense: str, option: str, key: str) -> float:
    """What a defense's option is set to in the suite, or by default; ``shots`` is the number of its training images.

    Args:
        source: Where the suite is.
        track: Track of the defense.
        defense: Its id there.
        option: Name of the option.
        key: Where the option is named, for messages.

    Raises:
        UserError: No part of the defense has such an option, or it is no number.
    """
    options: dict[str, Any] = {"shots": source.suite.shots(track, defense)}
    options |= {name: value for part in defense_parts(source, track, defense) for name, value in part.options}
    if option not in options:
        raise unknown(f"option of defense '{defense}'", option, options, f"{source.where}.{key}")
    value = options[option]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{source.where}.{key}: option '{option}' of defense '{defense}' is {value!r}, not a number")
    return float(value)
