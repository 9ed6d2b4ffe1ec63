"""A small suite and records made by hand: no model, no images."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.config import Metric, Suite
from bench.evaluation.metrics import count, outcomes, wilson
from bench.evaluation.record import Cell, Cost, Identity, Outcome, Record, State
from bench.leaderboard.collect import write_cells
from bench.leaderboard.table import write_table
from bench.leaderboard.verify import read_cells
from bench.paths import Paths
from bench.provenance import Provenance

METRICS: dict[str, Metric] = {"clean": "CA", "trigger": "ASR", "pgd": "RA", "autoattack": "RA", "replay": "RA"}
THREATS = {"pgd": "white_box", "autoattack": "white_box", "replay": "grey_box"}


class House:
    """A suite with two tracks, and the folder that its records and boards are in.

    ``robust``: two defenses on one checkpoint and two datasets under clean, pgd and autoattack.
    ``backdoor``: two defenses on two checkpoints under clean and trigger.
    """

    def __init__(self, top: Path) -> None:
        self.paths = Paths(top / "benchmark.yaml", top, top / "models", top / "results", top / "boards", top / ".bench")
        self.content: dict[str, Any] = {
            "protocol": {"version": 3, "batch_size": 4, "seeds": [1], "shots": 1, "control_ceiling": 5.0},
            "datasets": {"shapes": {}, "digits": {}},
            "checkpoints": {name: {"base": {}, "trigger": "none"} for name in ("plain", "badnet", "blended")},
            "attacks": {
                name: {"threat_model": THREATS.get(name, "none"), "options": {"eps": 8} if metric == "RA" else {}}
                for name, metric in METRICS.items()
            },
            "tracks": {
                "robust": {
                    "defenses": {"none": {}, "nap": {}},
                    "checkpoints": ["plain"],
                    "datasets": ["shapes", "digits"],
                    "attacks": ["clean", "pgd", "autoattack"],
                },
                "backdoor": {
                    "defenses": {"none": {}, "rvpt": {}},
                    "checkpoints": ["badnet", "blended"],
                    "datasets": ["shapes"],
                    "attacks": ["clean", "trigger"],
                },
            },
            "tables": {
                "nap_1": {
                    "title": "Accuracy under attack",
                    "tracks": ["robust"],
                    "rows": ["attack", "defense"],
                    "columns": ["dataset"],
                    "average": True,
                    "names": {"pgd": "PGD-100", "none": "CLIP", "shapes": "Shapes"},
                },
                "rvpt_1": {
                    "title": "Attack success",
                    "tracks": ["backdoor"],
                    "rows": ["defense"],
                    "columns": ["checkpoint", "metric"],
                    "decimals": 2,
                    "names": {"badnet": "BadNet"},
                },
            },
        }

    @property
    def suite(self) -> Suite:
        return Suite.model_validate(self.content)

    def put(self, track: str, defense: str, attack: str, hits: str = "", **changes: Any) -> Path:
        """Write the record of one cell and return its path; see ``record``."""
        made = record(defense, attack, hits, **{"checkpoint": self.suite.tracks[track].checkpoints[0], **changes})
        path = self.paths.evaluated(track, defense, attack) / f"{made.identity.cell.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made.model_dump_json(indent=1))
        return path

    def fill(self, hits: str = "1000") -> None:
        """A record with the same outcome for every cell of seed 1."""
        for track, plan in self.suite.tracks.items():
            for defense in plan.defenses:
                for attack in plan.attacks:
                    for checkpoint in plan.checkpoints:
                        for dataset in plan.datasets:
                            self.put(track, defense, attack, hits, checkpoint=checkpoint, dataset=dataset)

    def collect(self) -> pd.DataFrame:
        write_cells(self.suite, self.paths)
        return read_cells(self.paths.boards / "cells.csv")

    def row(self, **ids: Any) -> Any:
        """The only row of freshly collected cells with these ids."""
        cells = self.collect()
        for name, value in ids.items():
            cells = cells[cells[name] == value]
        (row,) = cells.itertuples()
        return row

    def table(self, name: str) -> tuple[list[str], str]:
        """Lines of the CSV and text of the Markdown, from freshly collected cells."""
        write_cells(self.suite, self.paths)
        write_table(self.suite, name, self.paths)
        written = self.paths.boards / name
        return written.with_suffix(".csv").read_text().splitlines(), written.with_suffix(".md").read_text()


def record(
    defense: str,
    attack: str,
    hits: str,
    *,
    checkpoint: str = "plain",
    dataset: str = "shapes",
    seed: int = 1,
    rows: tuple[int, ...] | None = None,
    state: State = "done",
    reason: str = "",
    flags: tuple[str, ...] = (),
    limit: int | None = None,
    hashed: dict[str, str] | None = None,
    commit: str = "abc",
    eps: float = 8,
) -> Record:
    """A record whose image ``i`` is hit where ``hits[i]`` is 1; all images are of class 0, the target is class 1."""
    metric = METRICS[attack]
    labels = (0,) * len(hits)
    predictions = tuple(int((hit == "1") == (metric == "ASR")) for hit in hits)
    counted = count(outcomes(metric, predictions, labels, 1))
    interval = wilson(counted)
    hashes = {name: name[0] * 64 for name in ("checkpoint", "artefact", "manifest", "attack")}
    protocol = {"version": 3, "batch_size": 4, "seeds": [1], "shots": 1}
    cell = Cell(
        checkpoint=checkpoint,
        defense=defense,
        dataset=dataset,
        split="test",
        attack=attack,
        threat_model=THREATS.get(attack, "none"),
        seed=seed,
        limit=limit,
    )
    options = {"eps": eps} if metric == "RA" else {}
    identity = {
        "cell": cell,
        **hashes,
        **(hashed or {}),
        "attack_options": options,
        "images": None,
        "protocol": protocol,
    }
    numbers: dict[str, Any] = {
        "n": counted.total,
        "hits": counted.hits,
        "value": counted.percent,
        "low": interval.low,
        "high": interval.high,
        "tuned_parameters": 7,
        "outcome": Outcome(
            rows=tuple(range(len(hits))) if rows is None else rows, labels=labels, predictions=predictions, target=1
        ),
        "cost": Cost(wall_s=1.5, images_per_s=2.0, peak_memory_mb=3.0, forwards=101.0, backwards=100.5),
    }
    return Record(
        identity=Identity.model_validate(identity),
        metric=metric,
        state=state,
        reason=reason,
        flags=flags,
        provenance=Provenance(commit=commit, dirty=False, python="3", packages={}, device="cpu", threads=1),
        **(numbers if state == "done" else {}),
    )


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)
