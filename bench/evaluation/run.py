"""Evaluating: from a defense and an attack to the records of all their cells. Read ``evaluate`` from top to bottom."""

import shutil
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.attacks.checked import run_attack
from bench.attacks.contract import Knowledge
from bench.backdoors.checkpoint import Checkpoint, load_checkpoint
from bench.clip.classifier import predict
from bench.config import Options, Suite
from bench.datasets.sampling import even_sample
from bench.datasets.store import Manifest, Split, open_split, read_manifest
from bench.defenses.artefact import ArtefactCard, Part, artefact_name, load_artefact, parts_of, task_of
from bench.errors import UserError
from bench.evaluation.cells import cells_of
from bench.evaluation.metrics import ASR_VARIANTS, count, outcomes, wilson
from bench.evaluation.record import Cell, Cost, Identity, Outcome, Record
from bench.evaluation.sanity import masking_flags
from bench.evaluation.store import Batch, Store, key_of
from bench.files import write_text
from bench.items import item_options, load_item, source_hash
from bench.memory import peak_memory_mb
from bench.paths import Paths
from bench.progress import console, track
from bench.provenance import provenance
from bench.randomness import sample_seeds

_SANITY_IMAGES = 16


class Attacker(NamedTuple):
    """An attack file with its options."""

    name: str
    module: Any
    options: Options


class Scene(NamedTuple):
    """Everything one cell is computed from."""

    identity: Identity
    attacker: Attacker
    model: nn.Module
    knowledge: Knowledge
    images: Tensor
    labels: Tensor
    rows: list[int]
    target: int | None
    tuned_parameters: int


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
        One record per cell, whatever became of it.
    """
    plan = suite.tracks[track_name]
    where = f"{paths.suite}: tracks.{track_name}.defenses.{defense}"
    parts = parts_of(plan, defense, where)
    attacker = load_attacker(suite, attack, str(paths.suite))
    open_checkpoint = cache(lambda name: load_checkpoint(paths.checkpoint(name)))
    store, records = Store(paths.store), list[Record]()
    cells = list(cells_of(suite, track_name, defense, attack, limit))
    for cell in track(cells, f"{defense} under {attack}"):
        checkpoint: Checkpoint = open_checkpoint(cell.checkpoint)
        name = artefact_name(parts, plan.tuned_on(defense, cell.dataset), cell.seed)
        folder = paths.defended(track_name, defense, cell.checkpoint) / name
        records.append(_record(suite, cell, parts, attacker, checkpoint, folder, paths, store))
    if limit is None:
        _write(records, paths.evaluated(track_name, defense, attack))
    return records


def load_attacker(suite: Suite, attack: str, where: str) -> Attacker:
    """The attack file of ``attack`` with the suite's options for it."""
    module = load_item("attacks", attack, f"{where}: attacks")
    return Attacker(
        attack, module, item_options(module, suite.attacks[attack].options, f"{where}: attacks.{attack}.options")
    )


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
    key = key_of(identity)
    found = store.get(key)
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
    split, task = open_split(paths.data, manifest, cell.split), task_of(manifest, card.template)
    try:
        classifier = defended.classifier(task._replace(template=prefix + task.template))
        rows = _sample(split, identity, cell).tolist()
        target = _target(checkpoint, manifest, attacker)
        scene = Scene(
            identity,
            attacker,
            classifier,
            Knowledge(checkpoint.trigger),
            split.batch(rows),
            split.targets(rows),
            rows,
            target,
            card.tuned_parameters,
        )
        recipe = checkpoint.card.recipe
        record = compute(scene, store.batches(key), lambda batch: store.add_batch(key, batch)).model_copy(
            update={"poisoned": recipe.poisoned, "poison_rate": recipe.poison_rate}
        )
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
        flags |= masking_flags(scene.model, scene.images[:_SANITY_IMAGES], scene.labels[:_SANITY_IMAGES])
    batches = list[Batch]()
    chunks = places.split(scene.identity.protocol.batch_size) if len(places) else ()
    for chunk in track(chunks, scene.identity.cell.name):
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
    attacked = run_attack(
        scene.attacker.module,
        scene.model,
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
        images=suite.attacks[attacker.name].images,
        protocol=suite.protocol,
    )


def _sample(split: Split, identity: Identity, cell: Cell) -> "np.ndarray[Any, np.dtype[np.int64]]":
    sizes = [size for size in (identity.images, cell.limit) if size is not None]
    return even_sample(split.labels, min(sizes) if sizes else None)


def _prompt_prefix(attacker: Attacker, checkpoint: Checkpoint) -> str:
    """What the attack puts before every class prompt."""
    module = attacker.module
    return module.prompt_prefix(attacker.options, checkpoint.trigger) if hasattr(module, "prompt_prefix") else ""


def _target(checkpoint: Checkpoint, manifest: Manifest, attacker: Attacker) -> int | None:
    """Index of the backdoor's class in this dataset, where there is a backdoor."""
    target, names = checkpoint.card.target, manifest.description.class_names
    if target is None:
        return None
    if target in names:
        return names.index(target)
    if attacker.module.METRIC == "ASR":
        raise UserError(
            f"dataset '{manifest.dataset}' has no class '{target}', the target of this checkpoint's backdoor"
        )
    return None


def _stateful(identity: Identity, attacker: Attacker, state: Any, reason: str) -> Record:
    return Record(identity=identity, metric=attacker.module.METRIC, state=state, reason=reason, provenance=provenance())


def _write(records: list[Record], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for record in records:
        write_text(folder / f"{record.identity.cell.name}.json", record.model_dump_json(indent=1) + "\n")
