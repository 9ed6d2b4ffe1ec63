"""The cell store: results keyed by everything they depend on. It is the cache, and how a killed run goes on.

``<store>/cells/<aa>/<key>.json`` holds a finished record. While a cell is being computed, each finished batch is one
line of ``<key>.part.jsonl``; two processes on the same cell write the same lines, so no lock is needed. A cell that
came to nothing leaves ``<key>.failed.json``, which is shown and never counts as done.
"""

import errno
import hashlib
import json
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from bench.errors import UserError
from bench.evaluation.record import Identity, Record
from bench.files import write_text


class Batch(NamedTuple):
    """One finished batch of a cell: predictions for ``rows``, what they cost, and more on each row.

    Of large vision-language models: how unlike clean ones a guard found the question, whether it raised the alarm,
    whether what is said beside the attacker's phrase is right, and the answer's score by VQA's rule.
    """

    rows: list[int]
    predictions: list[int]
    flags: list[str]
    forwards: int
    backwards: int
    seconds: float
    distances: Sequence[float] = ()
    alarms: Sequence[bool] = ()
    beside: Sequence[bool] = ()
    scores: Sequence[float] = ()


def key_of(identity: Identity) -> str:
    """The cell's key: a hash over all that its result depends on."""
    return hashlib.sha256(json.dumps(identity.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


class Store:
    """The records and batches under one folder."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, which need not exist."""
        self._cells = folder / "cells"

    def get(self, key: str) -> Record | None:
        """The finished record, or None; a damaged file counts as none."""
        return self._read(self._path(key, "json"))

    def put(self, key: str, record: Record) -> None:
        """Keep a finished record, or the state of one that failed."""
        done = record.state == "done"
        with full_disk_is_told(self._cells):
            write_text(self._path(key, "json" if done else "failed.json"), record.model_dump_json(indent=1) + "\n")
        if done:
            self._path(key, "part.jsonl").unlink(missing_ok=True)
            self._path(key, "failed.json").unlink(missing_ok=True)

    def batches(self, key: str) -> dict[int, Batch]:
        """Batches of an unfinished cell, by their first row; a line cut off by a kill is left out."""
        path = self._path(key, "part.jsonl")
        found = dict[int, Batch]()
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                batch = Batch(**json.loads(line))
            except (ValueError, TypeError):
                continue
            found[batch.rows[0]] = batch
        return found

    def add_batch(self, key: str, batch: Batch) -> None:
        """Keep one finished batch."""
        path = self._path(key, "part.jsonl")
        with full_disk_is_told(self._cells):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                # The newline comes first: what an interrupted write left behind then stays on a line of its own.
                file.write("\n" + json.dumps({name: value for name, value in batch._asdict().items() if value != ()}))
                file.flush()
                os.fsync(file.fileno())

    def unfinished(self) -> list[Path]:
        """Files of cells that have batches and no record."""
        return sorted(path for path in self._cells.glob("*/*.part.jsonl"))

    def _path(self, key: str, ending: str) -> Path:
        return self._cells / key[:2] / f"{key}.{ending}"

    def _read(self, path: Path) -> Record | None:
        if not path.exists():
            return None
        try:
            return Record.model_validate_json(path.read_bytes())
        except ValidationError:
            return None


@contextmanager
def full_disk_is_told(folder: Path) -> Generator[None]:
    """Turn a full disk into one clear message; what was written before stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk that holds {folder.absolute()} is full; finished batches are kept: free some space and run again"
        ) from error
