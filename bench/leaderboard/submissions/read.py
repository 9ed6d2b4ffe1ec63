"""A submission as it lies on disk: a folder with ``submission.yaml``, ``records.jsonl`` and what else its kind needs.

Three kinds: a new defense, a new result for a row that is there, and a stronger evaluation of a row, which proves
itself by adversarial images or names its attack. Reading gathers what is wrong, so that all can be told at once.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field, ValidationError

from bench.config import Options, parse
from bench.errors import UserError
from bench.evaluation.record import Record
from bench.leaderboard.records import parse_record

DESCRIPTION = "submission.yaml"
RECORDS = "records.jsonl"
Kind = Literal["", "defense", "result", "evaluation"]


class Reference(Options):
    """Something that is kept elsewhere.

    Attributes:
        url: Where it is: a link that names a commit or a release.
        sha256: Hash of what is there.
        licence: Under which it may be used, as SPDX identifier.
    """

    url: str = ""
    sha256: str = ""
    licence: str = ""


class Description(Options):
    """The content of ``submission.yaml``. What a kind needs is checked by the rules, and all at once.

    Attributes:
        kind: ``defense``, ``result`` or ``evaluation``.
        track: Which track of the suite.
        defense: Id of the row: a new one for a defense, one of the track otherwise.
        attack: Id of a stronger attack, a new one; for an evaluation only.
        against: Attack of the track whose sample and eps a stronger evaluation keeps to.
        authors: Who made it.
        contact: How to reach them.
        licence: Of the folder's content, as SPDX identifier.
        redistribution: Whether the content may be passed on, which it must.
        protocol: Version of the protocol that it follows.
        code: Code of the defense, or of the attack if there are no images.
        weights: Tuned parameters of a new defense.
        files: Hash of every file in the folder but this one and a README.
        images: For a record, by ``<defense>.<attack>.<cell>``, its adversarial images: a safetensors file, or a folder
            of PNGs named by row.
        flags: The flags of all records together, so that none is overlooked.
        moved: For a record that takes the place of another value, the reason.
        rechecked: Whether a maintainer has repeated it; written by ``bench submit add``.
    """

    kind: Kind = ""
    track: str = ""
    defense: str = ""
    attack: str = ""
    against: str = ""
    authors: tuple[str, ...] = ()
    contact: str = ""
    licence: str = ""
    redistribution: bool = False
    protocol: int = 0
    code: Reference = Reference()
    weights: Reference = Reference()
    files: dict[str, str] = Field(default_factory=dict[str, str])
    images: dict[str, str] = Field(default_factory=dict[str, str])
    flags: tuple[str, ...] = ()
    moved: dict[str, str] = Field(default_factory=dict[str, str])
    rechecked: bool = False


class Submission(NamedTuple):
    """A folder as it was read.

    Attributes:
        folder: Where it is; its name is the submission's.
        description: Without the keys that cannot be read.
        records: Those that can be read.
        faults: What cannot be read, one sentence each.
    """

    folder: Path
    description: Description
    records: list[Record]
    faults: list[str]

    @property
    def name(self) -> str:
        """Id of the submission."""
        return self.folder.resolve().name


def record_name(record: Record) -> str:
    """The name of a record within a track."""
    cell = record.identity.cell
    return f"{cell.defense}.{cell.attack}.{cell.name}"


def read_submission(folder: Path) -> Submission:
    """The submission in ``folder``, with all that is wrong with its form."""
    faults, records = list[str](), list[Record]()
    description = _description(folder / DESCRIPTION, faults)
    path = folder / RECORDS
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(parse_record(line, f"{RECORDS}: line {number}", "pack it again with: bench submit pack"))
        except UserError as error:
            faults.append(str(error))
    if not lines:
        faults.append(f"{RECORDS}: there are no records; pack them with: bench submit pack")
    return Submission(folder, description, records, faults)


def read_submissions(folder: Path) -> list[Submission]:
    """All submissions below ``folder``, by name."""
    return [read_submission(path) for path in sorted(folder.glob("[!.]*")) if path.is_dir()]


def _description(path: Path, faults: list[str]) -> Description:
    """The description without the keys that are wrong, each of which adds a fault."""
    try:
        content: Any = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        faults.append(f"{DESCRIPTION} cannot be read: {error}")
        return Description()
    if not isinstance(content, dict):
        faults.append(f"{DESCRIPTION} must hold keys and values; see the README of the submissions")
        return Description()
    try:
        return parse(Description, content, DESCRIPTION)
    except UserError as error:
        faults += str(error).splitlines()
        cause = error.__cause__
    wrong = {fault["loc"][0] for fault in cause.errors()} if isinstance(cause, ValidationError) else set(content)
    return Description.model_validate({key: value for key, value in content.items() if key not in wrong})
