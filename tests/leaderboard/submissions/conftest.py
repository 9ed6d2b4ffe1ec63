"""A suite with committed records and clean images, and a good submission of each kind: no model is needed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from bench.config import Options
from bench.datasets.store import Description, build, write_split
from bench.evaluation.record import Record
from bench.files import sha256_of
from bench.leaderboard.collect import write_cells
from bench.leaderboard.records import lines_of, read_lines
from bench.leaderboard.submissions.check import check
from bench.leaderboard.verify import read_cells
from tests.leaderboard.conftest import House, record

HITS = "11100000"  # of the images under pgd; the control has none
SHA = "0" * 64
REFERENCE = {"url": "https://example.org/code/tree/v1", "sha256": SHA, "licence": "Apache-2.0"}
CELL = "plain.shapes.test.seed1"


class Desk:
    """A house of the track ``robust`` only, whose records are committed, and a drawer of submissions."""

    def __init__(self, house: House) -> None:
        self.house = house
        house.content["tracks"].pop("backdoor")
        house.content["tables"].pop("rvpt_1")
        self.pixels = np.random.default_rng(0).integers(9, 247, (8, 3, 4, 4), np.uint8)
        self.hashed = {"manifest": build("shapes", Options(), self._fetch, house.paths.data).digest}
        for defense in ("none", "nap"):
            for dataset in ("shapes", "digits"):
                self._put(defense, "clean", "11111111", dataset)
                self._put(defense, "pgd", HITS if defense == "nap" else "00000000", dataset)
                if (defense, dataset) != ("nap", "digits"):  # what a result may fill in
                    self._put(defense, "autoattack", HITS if defense == "nap" else "00000000", dataset)
        write_cells(house.suite, house.paths)

    def _put(self, defense: str, attack: str, hits: str, dataset: str) -> None:
        self.house.put("robust", defense, attack, hits, dataset=dataset, hashed=self.hashed)

    def _fetch(self, options: Options, folder: Path) -> Description:
        write_split(folder, "test", self.pixels, np.zeros(8, np.int64))
        return Description(class_names=("a", "b"), template="{}", source="made", licence="CC0-1.0", redistribution=True)

    def record(self, defense: str, attack: str, hits: str, **changes: Any) -> Record:
        return record(defense, attack, hits, **{"hashed": self.hashed} | changes)

    def defense(self) -> Path:
        """A new defense, better than nap."""
        records = [
            self.record("fresh", attack, "11111111" if attack == "clean" else "11111000", dataset=dataset)
            for attack in ("clean", "pgd", "autoattack")
            for dataset in ("shapes", "digits")
        ]
        about = {"kind": "defense", "defense": "fresh", "code": REFERENCE, "weights": REFERENCE}
        return self.write("fresh_by_stranger", about, records)

    def result(self) -> Path:
        """The one cell of nap that is missing."""
        about = {"kind": "result", "defense": "nap"}
        return self.write("nap_digits", about, [self.record("nap", "autoattack", HITS, dataset="digits")])

    def evaluation(self) -> Path:
        """Images that leave nap with two of eight instead of three."""
        made = self.record("nap", "pgd", "11000000")
        cell = made.identity.cell.model_copy(update={"attack": "stronger"})
        made = made.model_copy(update={"identity": made.identity.model_copy(update={"cell": cell})})
        about = {
            **{"kind": "evaluation", "defense": "nap", "attack": "stronger", "against": "pgd"},
            "images": {f"nap.stronger.{CELL}": f"images/{CELL}.safetensors"},
        }
        folder = self.write("nap_is_weaker", about, [made])
        self.images(folder, self.pixels + np.uint8(8))
        return folder

    def images(self, folder: Path, images: Any) -> None:
        path = folder / "images" / f"{CELL}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({"images": images}, path)
        self.pack(folder)

    def write(self, name: str, about: dict[str, Any], records: list[Record]) -> Path:
        folder = self.house.paths.data / "drawer" / name
        folder.mkdir(parents=True)
        content = {
            **{"track": "robust", "authors": ["A. Stranger"], "contact": "https://example.org", "protocol": 3},
            **{"licence": "CC-BY-4.0", "redistribution": True},
        }
        (folder / "submission.yaml").write_text(yaml.safe_dump(content | about))
        (folder / "records.jsonl").write_text(lines_of(records))
        self.pack(folder)
        return folder

    def pack(self, folder: Path) -> None:
        """Write the hash of every file into the description."""
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "submission.yaml")
        self.edit(folder, files={path.relative_to(folder).as_posix(): sha256_of(path) for path in files})

    def edit(self, folder: Path, **changes: Any) -> None:
        path = folder / "submission.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    def change(self, folder: Path, change: Callable[[Record], Record], which: int = 0) -> None:
        """Change one record of a submission, and pack it again."""
        records = list(read_lines(folder / "records.jsonl"))
        records[which] = change(records[which])
        (folder / "records.jsonl").write_text(lines_of(records))
        self.pack(folder)

    def check(self, folder: Path) -> list[str]:
        return check(folder, self.house.suite, self.house.paths)

    def put_in_place(self, folder: Path) -> Path:
        """Copy a submission into the tree without any check."""
        target = self.house.paths.submissions / folder.name
        shutil.copytree(folder, target)
        return target

    def cells(self) -> dict[tuple[str, ...], Any]:
        """The lines of ``cells.csv``, by defense, dataset and attack."""
        lines = read_cells(self.house.paths.boards / "cells.csv").itertuples()
        return {(line.defense, line.dataset, line.attack): line for line in lines}


@pytest.fixture
def desk(house: House) -> Desk:
    return Desk(house)
