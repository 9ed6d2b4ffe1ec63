"""``benchmark.yaml`` as validated, typed objects. An unknown key is an error that names the nearest known one."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import UserError, unknown

ThreatModel = Literal["none", "white_box", "grey_box", "transfer"]
Metric = Literal["CA", "ASR", "RA"]
Column = Literal["track", "checkpoint", "defense", "dataset", "split", "attack", "metric"]
Model = TypeVar("Model", bound=BaseModel)


class Options(BaseModel):
    """Base of everything read from YAML or JSON: typed, frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Protocol(Options):
    """What all rows of the suite's tables share.

    Attributes:
        version: Raised by hand when a change to the shared evaluator may move results; part of every cell's key.
        batch_size: Images handed to an attack at a time; fixed, because library attacks draw noise per batch.
        seeds: Seeds of training; one artefact and one cell for each.
        shots: Labelled images per class that a defense may tune on.
        control_ceiling: Percent; an undefended control that keeps more under a white-box attack marks its table.
    """

    version: int
    batch_size: int = Field(gt=0)
    seeds: tuple[int, ...] = Field(min_length=1)
    shots: int = Field(gt=0)
    control_ceiling: float = 5.0


class CheckpointSpec(Options):
    """How a model to defend is made; see ``bench/backdoors/make.py``.

    Attributes:
        base: Architecture and weights to start from (``bench.clip.model.Base``).
        trigger: Id of the trigger; ``none`` for a clean model, which needs no more than a base.
        trigger_options: The trigger file's own options.
        target: Class that the trigger should call up.
        dataset: Dataset that has the target class; the strength gate runs on its ``val`` split.
        pairs: Dataset of image-caption pairs to poison.
        poison_rate: Share of the pairs that carries the trigger.
        train: Settings of the contrastive fine-tuning (``bench.clip.contrastive.ContrastiveOptions``) and ``epochs``.
        gate: Least attack success rate and largest loss of clean accuracy, in percent.
    """

    base: dict[str, str]
    trigger: str
    trigger_options: dict[str, Any] = {}
    target: str = ""
    dataset: str = ""
    pairs: str = ""
    poison_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    train: dict[str, float] = {}
    gate: dict[str, float] = {}
    seed: int = 1


class AttackSpec(Options):
    """One condition of evaluation.

    Attributes:
        threat_model: What the attacker may use: gradients through the defended model (``white_box``), through the
            undefended one (``grey_box``), or through ``surrogates`` only (``transfer``).
        method: Id of the attack's file; the attack's own id if not given. One file can so serve several attacks.
        surrogates: For ``transfer``, the models that the attack is made on.
        images: Size of the test sample; an even sample over the classes. All images if not given.
        cell_seconds: A cell whose attack takes longer is given up, with the state ``timeout``. No limit if not given.
        options: The attack file's own options.
    """

    threat_model: ThreatModel
    method: str = ""
    surrogates: tuple[str, ...] = ()
    images: int | None = None
    cell_seconds: float | None = Field(default=None, gt=0)
    options: dict[str, Any] = {}


class SurrogateSpec(Options):
    """How a model is made that transfer attacks work on instead of the attacked one; see ``bench/surrogates``.

    Attributes:
        recipe: Id of the recipe's file.
        options: The recipe file's own options.
    """

    recipe: str
    options: dict[str, Any] = {}


class Track(Options):
    """A set of cells: every defense on every checkpoint and dataset, under every attack.

    Attributes:
        defenses: Id (or ids joined by ``+``, applied in order) to options; ``none`` must be among them, as the control.
        checkpoints: Which checkpoints are defended.
        datasets: Which datasets the defenses are tuned and tested on.
        splits: Test splits.
        pairs: Dataset of clean image-caption pairs, for defenses that tune on those.
        attacks: Conditions of evaluation, by id.
    """

    defenses: dict[str, dict[str, Any]]
    checkpoints: tuple[str, ...]
    datasets: tuple[str, ...]
    splits: tuple[str, ...] = ("test",)
    pairs: str = ""
    attacks: tuple[str, ...]


class TableSpec(Options):
    """One table in a paper's layout: a pivot of the cells.

    Attributes:
        title: Heading of the Markdown table.
        track: Which track's cells it shows.
        rows: What names a row.
        columns: What names a column.
        average: Add a column with the mean over the others, where a row has all of them.
        decimals: Decimals of percentages, as in the paper.
        names: How ids are written in the table.
    """

    title: str
    track: str
    rows: tuple[Column, ...]
    columns: tuple[Column, ...]
    average: bool = False
    decimals: int = 1
    names: dict[str, str] = {}


class Suite(Options):
    """The whole of a ``benchmark.yaml``."""

    protocol: Protocol
    datasets: dict[str, dict[str, Any]]
    checkpoints: dict[str, CheckpointSpec]
    surrogates: dict[str, SurrogateSpec] = {}
    attacks: dict[str, AttackSpec]
    tracks: dict[str, Track]
    tables: dict[str, TableSpec]

    @cached_property
    def control(self) -> str:
        """Id of the undefended control."""
        return "none"

    def method_of(self, attack: str) -> str:
        """Id of the file of ``attack``."""
        return self.attacks[attack].method or attack


def load_suite(path: Path) -> Suite:
    """Read and validate a suite.

    Raises:
        UserError: The file is missing, is not YAML, or has an unknown, missing or wrong entry; names all of them.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; run the command at the top of the repository or pass --suite")
    try:
        content = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    suite = parse(Suite, content, str(path))
    _check_references(suite, str(path))
    return suite


def parse(model: type[Model], content: object, where: str) -> Model:
    """``content`` as a ``model``, with errors that say where, what and how to mend it.

    Args:
        model: What to make of it.
        content: Plain data, as read from YAML.
        where: File and key, for the message.

    Raises:
        UserError: With one line for each fault.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError("\n".join(_fault(model, fault, where) for fault in error.errors())) from error


def _fault(model: type[BaseModel], fault: Any, where: str) -> str:
    path = [str(part) for part in fault["loc"]]
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        return str(unknown("key", path[-1], _known_keys(model, path[:-1]), f"{where}: {key}"))
    given = "" if fault["type"] == "missing" else f" (given: {fault['input']!r})"
    return f"{where}: {key}: {fault['msg']}{given}"


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys allowed at ``path``: walk down the fields, over mapping keys and list positions."""
    for name in path:
        if name in model.model_fields:
            inner = _models_in(model.model_fields[name].annotation)
            if inner:
                model = inner[0]
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _models_in(part)]


def _check_references(suite: Suite, where: str) -> None:
    """Every name used is defined; raises with all faults at once."""
    faults = list[str]()

    def check(kind: str, name: str, known: Any, key: str) -> None:
        if name not in known:
            faults.append(str(unknown(kind, name, known, f"{where}: {key}")))

    for name, checkpoint in suite.checkpoints.items():
        for key in ("dataset", "pairs") if checkpoint.trigger != "none" else ():
            check("dataset", getattr(checkpoint, key), suite.datasets, f"checkpoints.{name}.{key}")
    for name, attack in suite.attacks.items():
        for surrogate in attack.surrogates:
            check("surrogate", surrogate, suite.surrogates, f"attacks.{name}.surrogates")
        if (attack.threat_model == "transfer") != bool(attack.surrogates):
            faults.append(f"{where}: attacks.{name}.surrogates: a transfer attack names them, and no other attack does")
    for name, track in suite.tracks.items():
        check("defense", suite.control, track.defenses, f"tracks.{name}.defenses (the undefended control)")
        for checkpoint in track.checkpoints:
            check("checkpoint", checkpoint, suite.checkpoints, f"tracks.{name}.checkpoints")
        for dataset in (*track.datasets, *([track.pairs] if track.pairs else [])):
            check("dataset", dataset, suite.datasets, f"tracks.{name}.datasets")
        for attack in track.attacks:
            check("attack", attack, suite.attacks, f"tracks.{name}.attacks")
    for name, table in suite.tables.items():
        check("track", table.track, suite.tracks, f"tables.{name}.track")
    if faults:
        raise UserError("\n".join(faults))
