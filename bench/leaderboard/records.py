"""Records on disk: as an evaluation leaves them, and in the compact form that git holds.

Boards must come out of git alone, and the worst case needs the outcome of every image, so git holds whole records:
``records/<track>/<defense>/<attack>.jsonl`` beside the boards, one line per cell. They are text and not an archive, so
that git compresses them and stores what changed only, a pull request shows them, and two of them merge. A line stays as
it is where a run came to the same result on the same grounds: only its time and machine would differ.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from bench.config import Suite
from bench.errors import UserError
from bench.evaluation.record import Cell, Record
from bench.files import write_text
from bench.paths import Paths

Key = tuple[str, Cell]
_RUN = {"provenance": True, "cost": {"wall_s", "images_per_s", "peak_memory_mb"}}


def evaluated_records(suite: Suite, paths: Paths) -> dict[Key, Record]:
    """All records that evaluations of the suite's cells have left, by track and cell.

    Raises:
        UserError: A record is damaged, is of another cell than its file's name says, or was made with ``--limit``.
    """
    found = dict[Key, Record]()
    for track, defense, attack in _groups(suite):
        mend = f"mend it with: bench evaluate {track} {defense} {attack} --suite {paths.suite}"
        for path in sorted(paths.evaluated(track, defense, attack).glob("*.json")):
            record = parse_record(path.read_bytes(), str(path), mend)
            _check(record, (defense, attack, path.stem), suite.limit, str(path), mend)
            found[track, record.identity.cell] = record
    return found


def committed_records(suite: Suite, paths: Paths) -> dict[Key, Record]:
    """All committed records of the suite's cells, by track and cell; raises as ``evaluated_records``."""
    found = dict[Key, Record]()
    for track, defense, attack in _groups(suite):
        path = _file(paths.records, track, defense, attack)
        for record in read_lines(path) if path.exists() else ():
            names = defense, attack, record.identity.cell.name
            _check(record, names, suite.limit, str(path), "restore the file from git")
            found[track, record.identity.cell] = record
    return found


def commit_records(records: Mapping[Key, Record], paths: Paths) -> None:
    """Put the records into the compact form, taking the place of all that was there."""
    files = dict[Path, list[Record]]()
    for (track, cell), record in records.items():
        files.setdefault(_file(paths.records, track, cell.defense, cell.attack), []).append(record)
    texts = {path: lines_of(_kept(path, made)) for path, made in files.items()}
    shutil.rmtree(paths.records, ignore_errors=True)
    for path, text in texts.items():
        write_text(path, text)


def lines_of(records: list[Record]) -> str:
    """Records as text, one line each."""
    return "".join(record.model_dump_json() + "\n" for record in records)


def read_lines(path: Path) -> Iterator[Record]:
    """The records of a file with one on each line; raises a ``UserError`` at the first damaged line."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        yield parse_record(line, f"{path}: line {number}", "restore the file from git")


def parse_record(content: bytes, where: str, mend: str) -> Record:
    """One record; a ``UserError`` with ``mend`` as advice if it is damaged."""
    try:
        return Record.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise UserError(f"{where} is damaged ({f'{key}: ' if key else ''}{fault['msg']}); {mend}") from error


def _groups(suite: Suite) -> Iterator[tuple[str, str, str]]:
    for track, plan in suite.tracks.items():
        for defense in plan.defenses:
            for attack in plan.attacks:
                yield track, defense, attack


def _file(folder: Path, track: str, defense: str, attack: str) -> Path:
    return folder / track / defense / f"{attack}.jsonl"


def _check(record: Record, expected: tuple[str, str, str], limit: int | None, where: str, mend: str) -> None:
    cell = record.identity.cell
    if (cell.defense, cell.attack, cell.name) != expected:
        raise UserError(f"{where} holds the record of {cell.defense} under {cell.attack}, {cell.name}; {mend}")
    if cell.limit != limit:
        shown = "no table may show" if limit is None else f"is not this rehearsal's limit of {limit}"
        raise UserError(f"{where} was made with --limit {cell.limit}, which {shown}; {mend}")


def _kept(path: Path, made: list[Record]) -> list[Record]:
    """The new records, or those that are there already where only time and machine differ."""
    there = dict[Cell, Record]()
    for record in read_lines(path) if path.exists() else ():
        there[record.identity.cell] = record
    return [_same(there.get(record.identity.cell), record) for record in made]


def _same(old: Record | None, new: Record) -> Record:
    results = [json.dumps(each.model_dump(mode="json", exclude=_RUN)) for each in (old, new) if each is not None]
    return old if old is not None and len(set(results)) == 1 else new
