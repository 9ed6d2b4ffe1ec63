"""Evaluating: from a defense and an attack to the records of all their cells. Read ``evaluate`` from top to bottom."""

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.attacks.checked import attack_in_parts
from bench.attacks.contract import Knowledge
from bench.backdoors.checkpoint import Checkpoint, load_checkpoint
from bench.clip.classifier import predict
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import StagedCLIP
from bench.config import Suite
from bench.datasets.halves import Drawn, draw
from bench.datasets.store import Manifest, read_manifest
from bench.defenses.artefact import ArtefactCard, Part, artefact_name, load_artefact, parts_of, task_of
from bench.device import device_of
from bench.errors import UserError
from bench.evaluation.adversary import Attacker, load_attacker, view_of
from bench.evaluation.cells import cells_of
from bench.evaluation.metrics import ASR_VARIANTS, count, outcomes, wilson
from bench.evaluation.record import Cell, Cost, Identity, Outcome, Record
from bench.evaluation.sanity import masking_flags
from bench.evaluation.store import Batch, Store, key_of
from bench.files import write_text
from bench.items import source_hash
from bench.memory import peak_memory_mb
from bench.paths import Paths
from bench.planned import Absent, leave_note
from bench.processes import side_by_side
from bench.progress import console, track
from bench.provenance import provenance
from bench.randomness import sample_seeds

_SANITY_IMAGES = 16


class Scene(NamedTuple):
    """Everything one cell is computed from.

    ``source`` is what the attacker differentiates, if not ``model``; ``poisoned`` pairs, a share ``poison_rate``,
    planted the backdoor.
    """

    identity: Identity
    attacker: Attacker
    model: nn.Module
    knowledge: Knowledge
    images: Tensor
    labels: Tensor
    rows: list[int]
    target: int | None
    tuned_parameters: int
    source: nn.Module | None = None
    poisoned: int = 0
    poison_rate: float = 0.0


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
    gate = checkpoint.card.gate
    if gate is not None and not gate.passed:
        reason = f"too weak a backdoor: ASR {gate.asr:.1f} %, CA {gate.ca:.1f} % (clean {gate.clean_ca:.1f} %)"
        return _stateful(identity, attacker, "attack_failed", reason)
    if defended is None:
        return _stateful(identity, attacker, "diverged", card.reason)
    prefix = _prompt_prefix(attacker, checkpoint)
    if prefix and not defended.reads_prompts:
        reason = f"the text key '{prefix.strip()}' has no place: this defense does not read prompts of words"
        return _stateful(identity, attacker, "not_applicable", reason)
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

    return settle(identity, attacker, scene, store)


def settle(identity: Identity, attacker: Attacker, scene: Callable[[], Scene], store: Store) -> Record:
    """Compute a cell and keep its record, whatever becomes of it.

    Args:
        identity: Which cell.
        attacker: Under which attack.
        scene: Makes what the cell is computed from; what it raises is a state of the cell too.
        store: Holds the batches of earlier tries, and takes the record.
    """
    key, cell = key_of(identity), identity.cell
    try:
        record = compute(scene(), store.batches(key), lambda batch: store.add_batch(key, batch))
    except UserError:
        raise
    except Exception as error:  # whatever an item's code raises is a state of its cell, and the other cells go on
        record = _stateful(identity, attacker, "failed", f"{type(error).__name__}: {error}")
        console.print(f"{cell.defense} under {cell.attack}, {cell.name}: {record.reason}", style="red", markup=False)
    store.put(key, record)
    return record


def compute(scene: Scene, finished: dict[int, Batch], keep: Callable[[Batch], None]) -> Record:
    """Attack the images that are classified correctly, batch by batch, and count.

    Robust accuracy needs no attack on an image that is wrong already. Batches are cut by the protocol, not by the
    machine.

    Args:
        scene: What to compute.
        finished: Batches that an earlier, killed run left, by their first row.
        keep: Called with each new batch.
    """
    clean = predict(scene.model, scene.images)
    every = scene.attacker.module.METRIC != "RA"
    places = torch.arange(len(scene.rows)) if every else torch.nonzero(clean == scene.labels).flatten()
    predictions, flags = clean.clone(), set[str]()
    if scene.identity.cell.threat_model == "white_box":
        few = (part[:_SANITY_IMAGES].to(device_of(scene.model)) for part in (scene.images, scene.labels))
        flags |= masking_flags(scene.model, *few)
    batches, limit = list[Batch](), scene.attacker.cell_seconds
    chunks = places.split(scene.identity.protocol.batch_size) if len(places) else ()
    for chunk in track(chunks, scene.identity.cell.name):
        if limit is not None and sum(batch.seconds for batch in batches) > limit:
            attacked = sum(len(batch.rows) for batch in batches)
            reason = f"{attacked} of {len(places)} images took longer than attacks.{scene.attacker.name}.cell_seconds"
            return _stateful(scene.identity, scene.attacker, "timeout", f"{reason}, {limit:g} s")
        rows = [scene.rows[place] for place in chunk.tolist()]
        batch = finished.get(rows[0])
        if batch is None or batch.rows != rows:
            batch = _attack_batch(scene, chunk, rows)
            keep(batch)
        batches.append(batch)
        predictions[chunk] = torch.tensor(batch.predictions)
    return _finished(scene, predictions, flags.union(*(batch.flags for batch in batches)), batches)


def _attack_batch(scene: Scene, chunk: Tensor, rows: list[int]) -> Batch:
    start = time.monotonic()
    images, labels = scene.images[chunk], scene.labels[chunk]
    seeds = sample_seeds(scene.identity.cell.seed, rows)
    attacked = attack_in_parts(
        scene.attacker.module,
        scene.model if scene.source is None else scene.source,
        images,
        labels,
        options=scene.attacker.options,
        seeds=seeds,
        knowledge=scene.knowledge,
    )
    # The verdict is a fresh float32 forward pass on what the attack returned, not what the attack believed.
    predictions = predict(scene.model, attacked.images).tolist()
    seconds = round(time.monotonic() - start, 3)
    return Batch(rows, predictions, sorted(attacked.flags), attacked.forwards, attacked.backwards, seconds)


def _finished(scene: Scene, predictions: Tensor, flags: Iterable[str], batches: list[Batch]) -> Record:
    metric, labels = scene.attacker.module.METRIC, scene.labels.tolist()
    counted = count(outcomes(metric, predictions.tolist(), labels, scene.target))
    variants = {
        name: count(outcomes(name, predictions.tolist(), labels, scene.target)).percent
        for name in (ASR_VARIANTS if metric == "ASR" else ())
    }
    interval = wilson(counted)
    attacked, seconds = sum(len(batch.rows) for batch in batches), sum(batch.seconds for batch in batches)
    cost = Cost(
        wall_s=round(seconds, 3),
        images_per_s=round(attacked / max(seconds, 1e-3), 2),
        peak_memory_mb=peak_memory_mb(),
        forwards=round(sum(batch.forwards for batch in batches) / max(1, attacked), 2),
        backwards=round(sum(batch.backwards for batch in batches) / max(1, attacked), 2),
    )
    return Record(
        identity=scene.identity,
        metric=metric,
        state="done",
        n=counted.total,
        hits=counted.hits,
        value=counted.percent if counted.total else None,
        low=interval.low if counted.total else None,
        high=interval.high if counted.total else None,
        variants=variants,
        poisoned=scene.poisoned,
        poison_rate=scene.poison_rate,
        flags=tuple(sorted(flags)),
        tuned_parameters=scene.tuned_parameters,
        outcome=Outcome(
            rows=tuple(scene.rows), labels=tuple(labels), predictions=tuple(predictions.tolist()), target=scene.target
        ),
        cost=cost,
        provenance=provenance(),
    )


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


def _stateful(identity: Identity, attacker: Attacker, state: Any, reason: str) -> Record:
    return Record(identity=identity, metric=attacker.module.METRIC, state=state, reason=reason, provenance=provenance())


def write_records(records: list[Record], folder: Path) -> None:
    """Write one file per record into ``folder``, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for record in records:
        write_text(folder / f"{record.identity.cell.name}.json", record.model_dump_json(indent=1) + "\n")
