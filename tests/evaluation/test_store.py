import errno
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.config import Protocol
from bench.errors import UserError
from bench.evaluation.record import Cell, Cost, Identity, Outcome, Record
from bench.evaluation.store import Batch, Store, key_of
from bench.provenance import Provenance

PROVENANCE = Provenance(commit="c0ffee", dirty=False, python="3.11", packages={}, device="cpu", threads=1)
CELL = Cell(
    checkpoint="badnet",
    defense="rvpt",
    dataset="shapes",
    split="test",
    attack="pgd",
    threat_model="white_box",
    seed=1,
)
PROTOCOL = Protocol(version=1, batch_size=4, seeds=(1, 2), shots=16)
IDENTITY = Identity(
    cell=CELL,
    checkpoint="a" * 64,
    artefact="b" * 64,
    manifest="c" * 64,
    attack="d" * 64,
    attack_options={"eps": 4.0, "steps": 100},
    images=240,
    protocol=PROTOCOL,
)
KEY = key_of(IDENTITY)
FIRST = Batch([0, 1, 2], [5, 0, 1], ["zero_gradient"], 300, 300, 1.25)
SECOND = Batch([3, 4, 6], [2, 2, 2], [], 300, 300, 1.0)


def record(state: str = "done", **fields: Any) -> Record:
    if state == "done":
        fields |= {"n": 3, "hits": 1, "value": 100 / 3, "low": 6.15, "high": 79.23, "flags": ("zero_gradient",)}
        fields["outcome"] = Outcome(rows=(0, 1, 2), labels=(5, 1, 2), predictions=(5, 0, 1), target=None)
        fields["cost"] = Cost(wall_s=1.25, images_per_s=2.4, peak_memory_mb=300.0, forwards=100.0, backwards=100.0)
    return Record.model_validate(
        {"identity": IDENTITY, "metric": "RA", "state": state, "provenance": PROVENANCE, **fields}
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def file_of(tmp_path: Path, ending: str) -> Path:
    return tmp_path / "store" / "cells" / KEY[:2] / f"{KEY}.{ending}"


def test_a_record_comes_back_as_it_was_put(store: Store) -> None:
    assert store.get(KEY) is None
    store.put(KEY, record())
    assert store.get(KEY) == record()


def test_a_finished_record_takes_the_place_of_its_batches_and_of_its_failure(store: Store, tmp_path: Path) -> None:
    store.add_batch(KEY, FIRST)
    store.put(KEY, record("failed", reason="ValueError: left the ball"))
    assert store.unfinished() == [file_of(tmp_path, "part.jsonl")]
    store.put(KEY, record())
    assert store.unfinished() == []
    assert store.batches(KEY) == {}
    assert [path.name for path in file_of(tmp_path, "json").parent.iterdir()] == [f"{KEY}.json"]


@pytest.mark.parametrize("state", ["failed", "diverged", "timeout", "attack_failed", "missing"])
def test_a_cell_without_a_number_does_not_count_as_done_and_keeps_its_batches(
    store: Store, tmp_path: Path, state: str
) -> None:
    store.add_batch(KEY, FIRST)
    store.put(KEY, record(state, reason="why"))
    assert store.get(KEY) is None
    assert store.batches(KEY) == {0: FIRST}
    assert Record.model_validate_json(file_of(tmp_path, "failed.json").read_text()) == record(state, reason="why")


def test_batches_come_back_by_their_first_row(store: Store) -> None:
    assert store.batches(KEY) == {}
    store.add_batch(KEY, FIRST)
    store.add_batch(KEY, SECOND)
    assert store.batches(KEY) == {0: FIRST, 3: SECOND}
    assert Store(store._cells.parent).batches(KEY) == {0: FIRST, 3: SECOND}
    assert store.batches("f" * 64) == {}


def test_a_batch_that_two_processes_wrote_counts_once(store: Store) -> None:
    store.add_batch(KEY, FIRST)
    store.add_batch(KEY, FIRST)
    assert store.batches(KEY) == {0: FIRST}


def test_a_line_torn_at_any_place_loses_only_itself(store: Store, tmp_path: Path) -> None:
    store.add_batch(KEY, FIRST)
    whole = file_of(tmp_path, "part.jsonl").stat().st_size
    store.add_batch(KEY, SECOND)
    content = file_of(tmp_path, "part.jsonl").read_bytes()
    for end in range(whole, len(content)):
        file_of(tmp_path, "part.jsonl").write_bytes(content[:end])
        assert store.batches(KEY) == {0: FIRST}, content[whole:end]
    store.add_batch(KEY, SECOND)
    assert store.batches(KEY) == {0: FIRST, 3: SECOND}, "what comes after the torn line is on a line of its own"


@pytest.mark.parametrize(
    "garbage",
    [b"\0" * 40, b"\xff\xfe\x80" * 9, b"[1, 2]", b'{"rows": [9]}'],
    ids=["zeros", "not utf-8", "a list", "half a batch"],
)
def test_damage_after_a_power_cut_loses_only_the_damaged_line(store: Store, tmp_path: Path, garbage: bytes) -> None:
    store.add_batch(KEY, FIRST)
    with file_of(tmp_path, "part.jsonl").open("ab") as file:
        file.write(b"\n" + garbage)
    store.add_batch(KEY, SECOND)
    assert store.batches(KEY) == {0: FIRST, 3: SECOND}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-20],
        lambda content: b"",
        lambda content: b"\0" * len(content),
        lambda content: b"\xff" * len(content),
        lambda content: content.replace(b'"metric"', b'"matric"'),
        lambda content: content.replace(b'"hits"', b'"surprise": 1, "hits"'),
    ],
    ids=["cut off", "empty", "zeros", "not utf-8", "misspelt key", "unknown key"],
)
def test_a_damaged_record_counts_as_absent(store: Store, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store.put(KEY, record())
    path = file_of(tmp_path, "json")
    path.write_bytes(damage(path.read_bytes()))
    assert store.get(KEY) is None
    store.put(KEY, record())
    assert store.get(KEY) == record()


@pytest.mark.parametrize("model", [Record, Cell, Identity, Cost, Outcome])
def test_unknown_keys_in_a_record_are_forbidden(model: type[Any]) -> None:
    content = record().model_dump()
    part = {
        Record: content,
        Cell: content["identity"]["cell"],
        Identity: content["identity"],
        Cost: content["cost"],
        Outcome: content["outcome"],
    }[model]
    part["surprise"] = 1
    with pytest.raises(ValidationError, match="surprise"):
        Record.model_validate(content)


OTHER: Mapping[str, Any] = {
    "cell.checkpoint": "blended",
    "cell.defense": "none",
    "cell.dataset": "digits",
    "cell.split": "sketch",
    "cell.attack": "clean",
    "cell.threat_model": "grey_box",
    "cell.seed": 2,
    "cell.limit": 10,
    "checkpoint": "0" * 64,
    "artefact": "0" * 64,
    "manifest": "0" * 64,
    "attack": "0" * 64,
    "attack_options": {"eps": 4.0, "steps": 99},
    "images": None,
    "protocol.version": 2,
    "protocol.batch_size": 5,
    "protocol.seeds": (1,),
    "protocol.shots": 15,
    "protocol.control_ceiling": 6.0,
    "dtype": "bfloat16",
    "version": 3,
}


def test_the_key_changes_with_every_field_of_the_identity() -> None:
    fields = [
        *(f"cell.{name}" for name in Cell.model_fields),
        *(f"protocol.{name}" for name in Protocol.model_fields),
        *(set(Identity.model_fields) - {"cell", "protocol"}),
    ]
    assert sorted(fields) == sorted(OTHER), "a new field needs a line in OTHER"
    keys = {KEY}
    for name, value in OTHER.items():
        content = IDENTITY.model_dump()
        *path, last = name.split(".")
        part = content[path[0]] if path else content
        assert part[last] != value
        part[last] = value
        keys.add(key_of(Identity.model_validate(content)))
    assert len(keys) == len(OTHER) + 1


def test_the_key_does_not_depend_on_the_order_of_options_and_is_stable() -> None:
    turned = IDENTITY.model_copy(update={"attack_options": {"steps": 100, "eps": 4.0}})
    assert key_of(turned) == KEY
    assert key_of(Identity.model_validate_json(IDENTITY.model_dump_json())) == KEY
    assert len(KEY) == 64


class _Full(io.StringIO):
    """A text file that writes half of what it is given to ``path`` before the disk is full."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def write(self, text: str) -> int:
        with open(self.path, "a", encoding="utf-8") as file:  # noqa: PTH123 - Path.open is what is replaced
            file.write(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_and_earlier_batches_are_kept(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_batch(KEY, FIRST)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *_, **__: _Full(path))
        with pytest.raises(UserError, match=r"the disk that holds .*cells is full; finished batches are kept"):
            store.add_batch(KEY, SECOND)
    assert b"\n" + b'{"rows": [3,' in file_of(tmp_path, "part.jsonl").read_bytes(), "half a line did get written"
    assert store.batches(KEY) == {0: FIRST}
    store.add_batch(KEY, SECOND)
    assert store.batches(KEY) == {0: FIRST, 3: SECOND}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_while_a_record_is_written_leaves_no_record_and_keeps_batches(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.add_batch(KEY, FIRST)

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="is full"):
            store.put(KEY, record())
    assert store.get(KEY) is None
    assert store.batches(KEY) == {0: FIRST}
    assert [path.name for path in file_of(tmp_path, "json").parent.iterdir()] == [f"{KEY}.part.jsonl"]


def test_other_faults_of_the_disk_are_not_called_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        store.add_batch(KEY, FIRST)


def test_short_names_of_cells_differ_where_their_files_share_a_folder() -> None:
    changes = [{"checkpoint": "x"}, {"dataset": "x"}, {"split": "x"}, {"seed": 9}]
    assert len({CELL.name, *(CELL.model_copy(update=change).name for change in changes)}) == 5
