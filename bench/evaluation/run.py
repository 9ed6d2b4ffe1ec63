"""Evaluating: from a defense and an attack to the records of all their cells. Read ``evaluate`` from top to bottom."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from bench.backdoors.checkpoint import Checkpoint, load_checkpoint
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import StagedCLIP
from bench.config import Suite
from bench.datasets.halves import Drawn, draw
from bench.datasets.store import Manifest, read_manifest
from bench.defenses.artefact import ArtefactCard, Part, artefact_name, load_artefact, parts_of, task_of
from bench.errors import UserError
from bench.evaluation.adversary import Attacker, load_attacker, view_of
from bench.evaluation.cells import cells_of
from bench.evaluation.compute import Scene, compute, settle, stateful
from bench.evaluation.record import Cell, Identity, Record
from bench.evaluation.store import Store, key_of
from bench.files import write_text
from bench.items import source_hash
from bench.paths import Paths
from bench.planned import Absent, leave_note
from bench.processes import side_by_side
from bench.progress import track


def evaluate(
    suite: Suite, track_name: str, defense: str, attack: str, paths: Paths, limit: int | None = None
) -> list[Record]:
    """Compute (or find in the store) all cells of one defense under one attack, and write their records.

    Args:
        suite: The benchmark.
        track_name: Which track's checkpoints, datasets and splits.
        defense: Id of the defense.
        attack: Id of the attack.
        paths: Where everything is.
        limit: At most so many images per cell, for a quick look; such records are marked, and not written as results.

    Returns:
        One record per cell, whatever became of it; none of a cell that needs what is planned only.
    """
    absent = Absent(suite)
    wanted = list(cells_of(suite, track_name, defense, attack, limit))
    cells = [cell for cell in wanted if not absent.cell(track_name, cell)]
    if not cells:
        leave_note(paths.evaluated(track_name, defense, attack), absent.cell(track_name, wanted[0]))
        return []
    work = Work(suite, track_name, defense, attack, paths)
    records = list(track(side_by_side(work, cells), f"{defense} under {attack}", len(cells)))
    if limit is None:
        write_records(records, paths.evaluated(track_name, defense, attack))
    return records


@dataclass(frozen=True)
class Work:
    """Computes the cells of one defense under one attack; sent to other processes before anything is opened."""

    suite: Suite
    track: str
    defense: str
    attack: str
    paths: Paths

    def __call__(self, cell: Cell) -> Record:
        """The record of ``cell``, from the store where it is there."""
        checkpoint = self._checkpoint(cell.checkpoint)
        name = artefact_name(self._parts, self.suite.tracks[self.track].tuned_on(self.defense, cell.dataset), cell.seed)
        folder = self.paths.defended(self.track, self.defense, cell.checkpoint) / name
        return _record(
            self.suite, cell, self._parts, self._attacker, checkpoint, folder, self.paths, Store(self.paths.store)
        )

    @cached_property
    def _parts(self) -> list[Part]:
        where = f"{self.paths.suite}: tracks.{self.track}.defenses.{self.defense}"
        return parts_of(self.suite.tracks[self.track], self.defense, where)

    @cached_property
    def _attacker(self) -> Attacker:
        return load_attacker(self.suite, self.attack, self.paths)

    @cached_property
    def _checkpoint(self) -> Callable[[str], Checkpoint]:
        return cache(lambda name: load_checkpoint(self.paths.checkpoint(name)))


def _record(
    suite: Suite,
    cell: Cell,
    parts: list[Part],
    attacker: Attacker,
    checkpoint: Checkpoint,
    folder: Path,
    paths: Paths,
    store: Store,
) -> Record:
    card, defended = load_artefact(folder, parts, checkpoint)
    manifest = read_manifest(paths.data, cell.dataset)
    identity = _identity(suite, cell, attacker, checkpoint, card, manifest)
    found = store.get(key_of(identity))
    if found is not None:
        return found
    metric, gate = attacker.module.METRIC, checkpoint.card.gate
    if gate is not None and not gate.passed:
        reason = f"too weak a backdoor: ASR {gate.asr:.1f} %, CA {gate.ca:.1f} % (clean {gate.clean_ca:.1f} %)"
        return stateful(identity, metric, "attack_failed", reason)
    if defended is None:
        return stateful(identity, metric, "diverged", card.reason)
    prefix = _prompt_prefix(attacker, checkpoint)
    if prefix and not defended.reads_prompts:
        reason = f"the text key '{prefix.strip()}' has no place: this defense does not read prompts of words"
        return stateful(identity, metric, "not_applicable", reason)
    drawn = sample_of(paths.data, manifest, identity)

    def scene() -> Scene:
        task, undefended = task_of(manifest, card.template, drawn.classes), DefendedCLIP(StagedCLIP(checkpoint.clip))
        task = task._replace(template=prefix + task.template)
        classifier = defended.classifier(task)
        view = view_of(cell.threat_model, attacker, classifier, defended, undefended, checkpoint.trigger, task)
        recipe = checkpoint.card.recipe
        return Scene(
            identity,
            attacker,
            classifier,
            view.knowledge,
            drawn.images,
            drawn.labels,
            drawn.rows,
            _target(checkpoint, task.class_names, cell, attacker),
            card.tuned_parameters,
            view.source,
            recipe.poisoned,
            recipe.poison_rate,
        )

    return settle(identity, metric, lambda finished, keep: compute(scene(), finished, keep), store)


def _identity(
    suite: Suite, cell: Cell, attacker: Attacker, checkpoint: Checkpoint, card: ArtefactCard, manifest: Manifest
) -> Identity:
    return Identity(
        cell=cell,
        checkpoint=checkpoint.digest,
        artefact=card.digest,
        manifest=manifest.digest,
        attack=source_hash(attacker.module),
        attack_options=attacker.options.model_dump(mode="json"),
        surrogates={surrogate.name: surrogate.digest for surrogate in attacker.surrogates},
        images=suite.attacks[attacker.name].sample(cell.dataset),
        protocol=suite.protocol,
    )


def sample_of(data: Path, manifest: Manifest, identity: Identity) -> Drawn:
    """The images that a cell is about, evenly over its classes.

    Raises:
        UserError: The split does not exist, or its files are not those of the manifest.
    """
    sizes = [size for size in (identity.images, identity.cell.limit) if size is not None]
    return draw(data, manifest, identity.cell.split, min(sizes) if sizes else None)


def _prompt_prefix(attacker: Attacker, checkpoint: Checkpoint) -> str:
    """What the attack puts before every class prompt."""
    module = attacker.module
    return module.prompt_prefix(attacker.options, checkpoint.trigger) if hasattr(module, "prompt_prefix") else ""


def _target(checkpoint: Checkpoint, names: Sequence[str], cell: Cell, attacker: Attacker) -> int | None:
    """Index of the backdoor's class among the classes of the cell, where there is a backdoor."""
    target = checkpoint.card.target
    if target is None:
        return None
    if target in names:
        return names.index(target)
    if attacker.module.METRIC == "ASR":
        raise UserError(
            f"{cell.dataset} ({cell.split}) has no class '{target}', the target of this checkpoint's backdoor"
        )
    return None


def write_records(records: list[Record], folder: Path) -> None:
    """Write one file per record into ``folder``, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for record in records:
        write_text(folder / f"{record.identity.cell.name}.json", record.model_dump_json(indent=1) + "\n")
