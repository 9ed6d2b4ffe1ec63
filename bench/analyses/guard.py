"""What the defenses of a track do against backdoors, at a glance: what they see, what they cost, what comes through.

Read from the records that ``bench collect`` keeps beside the boards. AUROC says how well the distances of a defense
that looks for attacks tell triggered questions from clean ones; alarms are the questions that it takes for attacks.
"""

from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from tabulate import tabulate

from bench.analyses.contract import Source
from bench.analyses.subjects.cleansight import auroc
from bench.analyses.subjects.references import CellReference
from bench.config import Options as Closed
from bench.evaluation.record import Record
from bench.leaderboard.records import committed_records

_METRICS = {"clean": "CU", "triggered": "ASR"}
_NUMBERS = ("auroc", "alarms_clean", "alarms_triggered", "asr", "cu")


class Options(Closed):
    """What to show.

    Attributes:
        cells: Which cells; all defenses of their track.
        seed: Seed of the defenses.
        names: Names to show instead of the ids of defenses and checkpoints.
    """

    cells: CellReference
    seed: int = 1
    names: dict[str, str] = Field(default_factory=dict[str, str])


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each checkpoint and defense; what a defense does not have, or no record has, is empty."""
    cells, track = options.cells, source.suite.tracks[options.cells.track]
    records = dict[tuple[str, str, str], Record]()
    for (name, cell), record in committed_records(source.suite, source.paths).items():
        own_seed = cell.seed == options.seed or cell.defense == source.suite.control
        if (name, cell.dataset, cell.split) == (cells.track, cells.dataset, cells.split) and own_seed:
            records[cell.checkpoint, cell.defense, record.metric] = record
    return pd.DataFrame(
        [
            {"checkpoint": checkpoint, "defense": defense}
            | _numbers(*(records.get((checkpoint, defense, metric)) for metric in _METRICS.values()))
            for checkpoint in cells.checkpoints_in(source.suite)
            for defense in track.defenses
        ]
    )


def table(frame: pd.DataFrame, options: Options) -> str:
    """A line for each checkpoint and defense, in percent."""
    header = ["backdoor", "defense", "AUROC", "alarms, clean", "alarms, triggered", "ASR", "CU", "seconds per answer"]
    lines = list[list[str]]()
    for line in frame.to_dict("records"):
        names = [options.names.get(name, name) for name in (str(line["checkpoint"]), str(line["defense"]))]
        if line["state"] != "done":
            lines.append([*names, *["-"] * 3, str(line["state"]), *["-"] * 2])
            continue
        numbers = ["-" if pd.isna(line[name]) else f"{line[name]:.1f}" for name in _NUMBERS]
        lines.append([*names, *numbers, f"{line['seconds']:.3f}"])
    body = tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=["left"] * 2 + ["right"] * 6)
    done = frame[frame["state"] == "done"]
    counts = [f"{int(done[f'n_{kind}'].max()):,} {kind}" for kind in _METRICS] if len(done) else []
    asked = f" Asked: {' and '.join(counts)} questions; seconds are those of clean ones." if counts else ""
    return (
        f"{body}\n\nIn percent. AUROC tells triggered questions from clean ones by the defense's distances; alarms are "
        f"questions taken for attacks. A dash stands where a defense looks for none.{asked}"
    )


def _numbers(clean: Record | None, triggered: Record | None) -> dict[str, Any]:
    """What the two records of a defense on a checkpoint say; a state instead where one has no number."""
    states = ["missing" if record is None else record.state for record in (clean, triggered)]
    state = next((state for state in states if state != "done"), "done")
    if clean is None or triggered is None or state != "done":
        empty = dict.fromkeys([*_NUMBERS, "seconds", *(f"n_{kind}" for kind in _METRICS)], np.nan)
        return {"state": state, **empty}
    near, far = (np.array(record.outcome.distances if record.outcome else ()) for record in (clean, triggered))
    return {
        "state": state,
        "auroc": auroc(near, far).value if len(near) and len(far) else np.nan,
        "alarms_clean": clean.variants.get("alarms", np.nan),
        "alarms_triggered": triggered.variants.get("alarms", np.nan),
        "asr": triggered.value,
        "cu": clean.value,
        "seconds": clean.cost.wall_s / max(1, clean.n) if clean.cost else np.nan,
        "n_clean": clean.n,
        "n_triggered": triggered.n,
    }
