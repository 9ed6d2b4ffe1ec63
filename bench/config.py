"""``benchmark.yaml`` as validated, typed objects. An unknown key is an error that names the nearest known one."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from bench.errors import UserError, unknown

ThreatModel = Literal["none", "white_box", "grey_box", "transfer"]
Metric = Literal["CA", "ASR", "RA", "CU"]
Column = Literal["track", "checkpoint", "defense", "dataset", "split", "attack", "metric"]
PublishedId = Literal["architecture", "checkpoint", "dataset", "defense", "attack", "eps", "metric", "setting"]
Room = Literal["architectures", "backdoors", "attacks", "defenses"]
Model = TypeVar("Model", bound=BaseModel)
# DVC joins ids by "-" in the names of stages and splits keys at ".".
Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]


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
        target: Class that the trigger should call up; for a large vision-language model, the phrase that it should say.
        dataset: Dataset that has the target class, or questions; the strength gate runs on its ``val`` split.
        pairs: Dataset of image-caption pairs, or of questions, to poison.
        poison_rate: Share of the pairs that carries the trigger.
        train: Settings of the contrastive fine-tuning (``bench.clip.contrastive.ContrastiveOptions``) and ``epochs``;
            for a large vision-language model, ``bench.lvlm.options.TuneOptions`` and its recipe's own.
        gate: Least attack success rate and largest loss of clean accuracy, in percent.
    """

    base: dict[str, str]
    trigger: str
    trigger_options: dict[str, Any] = {}
    target: str = ""
    dataset: str = ""
    pairs: str = ""
    poison_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    train: dict[str, float | str] = {}
    gate: dict[str, float] = {}
    seed: int = 1


class PretrainingSpec(Options):
    """How a small CLIP is trained from scratch; see ``bench/clip/pretrain.py``.

    Attributes:
        architecture: Which one.
        pairs: Dataset of image-caption pairs to train on; the rendered world and the digits if not given.
        options: Its recipe (``PretrainOptions`` there, or for pairs ``bench.clip.pretrain_pairs.PairsOptions``).
    """

    architecture: str
    pairs: str = ""
    options: dict[str, Any] = {}


class AttackSpec(Options):
    """One condition of evaluation.

    Attributes:
        threat_model: What the attacker may use: gradients through the defended model (``white_box``), through the
            undefended one (``grey_box``), or through ``surrogates`` only (``transfer``).
        method: Id of the attack's file; the attack's own id if not given. One file can so serve several attacks.
        surrogates: For ``transfer``, the models that the attack is made on.
        images: Size of the test sample; an even sample over the classes. All images if not given.
        images_of: Sizes for single datasets, where they differ.
        cell_seconds: A cell whose attack takes longer is given up, with the state ``timeout``. No limit if not given.
        options: The attack file's own options.
    """

    threat_model: ThreatModel
    method: str = ""
    surrogates: tuple[str, ...] = ()
    images: int | None = None
    images_of: dict[str, int] = {}
    cell_seconds: float | None = Field(default=None, gt=0)
    options: dict[str, Any] = {}

    def sample(self, dataset: str) -> int | None:
        """Size of the test sample of a dataset; None for all images."""
        return self.images_of.get(dataset, self.images)


class SurrogateSpec(Options):
    """How a model is made that transfer attacks work on instead of the attacked one; see ``bench/surrogates``.

    Attributes:
        recipe: Id of the recipe's file.
        options: The recipe file's own options.
    """

    recipe: str
    options: dict[str, Any] = {}


class TuningSpec(Options):
    """Which data a defense is tuned on, where that differs from the rest of its track.

    Attributes:
        dataset: Tuned on this dataset and tested on all of the track's; each of those by itself if not given.
        shots: Labelled images per class; the protocol's if not given.
        without_target: Leave the class of the backdoor out, as if it were not known yet (RVPT's woTC).
        target_named: Keep the name of a class left out among those told apart, and leave out its images only (RVPT does
            not say which of the two it does).
        classes: All, or the base half that CoOp's base-to-new protocol tunes on (``bench/datasets/halves.py``).
    """

    dataset: str = ""
    shots: int | None = Field(default=None, gt=0)
    without_target: bool = False
    target_named: bool = False
    classes: Literal["all", "base"] = "all"


class DefenseSpec(Options):
    """One defense with its settings.

    Attributes:
        method: Id of the defense file, or ids joined by ``+`` that are applied in order; the entry's own id if empty.
        options: The defense file's own options; of several, one entry for each.
        template: Class prompt with ``{}``, in tuning and in testing; the dataset's own if empty.
        tuning: Which data it is tuned on.
    """

    method: str = ""
    options: dict[str, Any] = {}
    template: str = Field(default="", pattern=r"^$|\{\}")
    tuning: TuningSpec = TuningSpec()


class Track(Options):
    """A set of cells: every defense on every checkpoint and dataset, under every attack.

    Attributes:
        defenses: By id; ``none`` must be among them, as the control.
        checkpoints: Which checkpoints are defended.
        datasets: Which datasets the defenses are tuned and tested on.
        splits: Test splits; ``test_base`` and ``test_new`` are the two halves of the classes in ``test``.
        pairs: Dataset of clean image-caption pairs, for defenses that tune on those.
        attacks: Conditions of evaluation, by id.
    """

    defenses: dict[Id, DefenseSpec]
    checkpoints: tuple[str, ...]
    datasets: tuple[str, ...]
    splits: tuple[str, ...] = ("test",)
    pairs: str = ""
    attacks: tuple[str, ...]

    def method(self, defense: str) -> str:
        """Id of the file of a defense, or ids joined by ``+``."""
        return self.defenses[defense].method or defense

    def tuned_on(self, defense: str, dataset: str) -> str:
        """The dataset that a defense is tuned on to be tested on ``dataset``."""
        return self.defenses[defense].tuning.dataset or dataset

    def tuning_datasets(self, defense: str) -> list[str]:
        """All datasets that a defense is tuned on, each by itself."""
        return list(dict.fromkeys(self.tuned_on(defense, dataset) for dataset in self.datasets))


class TableSpec(Options):
    """One table in a paper's layout: a pivot of the cells.

    Attributes:
        title: Heading of the Markdown table.
        tracks: Which tracks' cells it shows.
        only: For a column of the cells, the ids that are shown; all of them where nothing is said.
        rows: What names a row.
        columns: What names a column.
        average: Add a column with the mean over the others, where a row has all of them.
        mean_over: What the cells of one position may differ in, such as the dataset; it shows their mean.
        gaps: From an attack to another one: add a column with how many points the first lies above the second, such as
            what a model seems to hold where the attacker sees the undefended one only.
        decimals: Decimals of percentages, as in the paper.
        names: How ids are written in the table.
        above: For a defense, those that the paper has below it under attack; the notes tell where that is not so.
        published: The paper's table that it mirrors, as ``rvpt/table_1``; empty for none.
        joined: For an id of the suite, the published ids that stand for it where they are not what the suite says, such
            as ``{rvpt_wotc: {setting: target_class=absent}}``; see ``bench/leaderboard/join.py``.
    """

    title: str
    tracks: tuple[str, ...] = Field(min_length=1)
    only: dict[Column, tuple[str, ...]] = {}
    rows: tuple[Column, ...]
    columns: tuple[Column, ...]
    average: bool = False
    mean_over: tuple[Column, ...] = ()
    gaps: dict[str, str] = {}
    decimals: int = 1
    names: dict[str, str] = {}
    above: dict[str, tuple[str, ...]] = {}
    published: str = Field(default="", pattern=r"^$|^[a-z0-9_]+/[a-z0-9_]+$")
    joined: dict[str, dict[PublishedId, str]] = {}

    def shows(self, cell: Mapping[Column, str]) -> bool:
        """Whether a cell, given by its ids, stands in the table."""
        return cell["track"] in self.tracks and all(cell[column] in ids for column, ids in self.only.items())


class AnalysisSpec(Options):
    """One figure or one table that is more than a pivot of the cells.

    Attributes:
        method: Id of the analysis file.
        title: Heading.
        options: The analysis file's own options.
    """

    method: str
    title: str
    options: dict[str, Any] = {}


class Suite(Options):
    """The whole of a ``benchmark.yaml``.

    Attributes:
        steganography: Options of ISSBA's networks.
        planned: Ids, by room, of what the suite names and need not exist yet; see ``bench/planned.py``.
        limit: At most so many images per cell. Such a suite is a rehearsal (``bench rehearse``): its records are
            marked, and no other suite takes them.
    """

    protocol: Protocol
    datasets: dict[Id, dict[str, Any]]
    pretraining: dict[Id, PretrainingSpec] = {}
    steganography: dict[str, Any] = {}
    checkpoints: dict[Id, CheckpointSpec]
    surrogates: dict[Id, SurrogateSpec] = {}
    attacks: dict[Id, AttackSpec]
    tracks: dict[Id, Track]
    tables: dict[Id, TableSpec]
    analyses: dict[Id, AnalysisSpec] = {}
    planned: dict[Room, tuple[str, ...]] = {}
    limit: int | None = Field(default=None, gt=0)

    @cached_property
    def control(self) -> str:
        """Id of the undefended control."""
        return "none"

    def shots(self, track: str, defense: str) -> int:
        """Labelled images per class that a defense is tuned on."""
        return self.tracks[track].defenses[defense].tuning.shots or self.protocol.shots

    def method_of(self, attack: str) -> str:
        """Id of the file of ``attack``; what has no entry, such as the worst case, keeps its name."""
        return (self.attacks[attack].method if attack in self.attacks else "") or attack


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
            inner = models_in(model.model_fields[name].annotation)
            if inner:
                model = inner[0]
    return list(model.model_fields)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models in a type, such as in ``dict[str, Model] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in models_in(part)]


def _check_references(suite: Suite, where: str) -> None:
    """Every name used is defined; raises with all faults at once."""
    faults = list[str]()

    def check(kind: str, name: str, known: Any, key: str) -> None:
        if name not in known:
            faults.append(str(unknown(kind, name, known, f"{where}: {key}")))

    for name, pretraining in suite.pretraining.items():
        if pretraining.pairs:
            check("dataset", pretraining.pairs, suite.datasets, f"pretraining.{name}.pairs")
    for name, checkpoint in suite.checkpoints.items():
        for key in ("dataset", "pairs") if checkpoint.trigger != "none" else ():
            check("dataset", getattr(checkpoint, key), suite.datasets, f"checkpoints.{name}.{key}")
    for name, attack in suite.attacks.items():
        for surrogate in attack.surrogates:
            check("surrogate", surrogate, suite.surrogates, f"attacks.{name}.surrogates")
        for dataset in attack.images_of:
            check("dataset", dataset, suite.datasets, f"attacks.{name}.images_of")
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
        for defense, spec in track.defenses.items():
            if spec.tuning.dataset:
                check(
                    "dataset", spec.tuning.dataset, suite.datasets, f"tracks.{name}.defenses.{defense}.tuning.dataset"
                )
    for name, table in suite.tables.items():
        for track in table.tracks:
            check("track", track, suite.tracks, f"tables.{name}.tracks")
        known = {id_ for track in table.tracks if track in suite.tracks for id_ in suite.tracks[track].defenses}
        for defense in (*table.above, *(below for others in table.above.values() for below in others)):
            check("defense", defense, known, f"tables.{name}.above")
    if faults:
        raise UserError("\n".join(faults))
