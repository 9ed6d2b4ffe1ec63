"""One cell: the attack on its images, batch by batch, and the record of what became of it."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.attacks.checked import attack_in_parts
from bench.attacks.contract import Knowledge
from bench.clip.classifier import predict
from bench.config import Metric
from bench.device import device_of
from bench.errors import UserError
from bench.evaluation.adversary import Attacker
from bench.evaluation.metrics import ASR_VARIANTS, count, outcomes, wilson
from bench.evaluation.record import Cost, Identity, Outcome, Record, State
from bench.evaluation.sanity import masking_flags
from bench.evaluation.store import Batch, Store, key_of
from bench.memory import peak_memory_mb
from bench.progress import console, track
from bench.provenance import provenance
from bench.randomness import sample_seeds

_SANITY_IMAGES = 16
# Takes the batches that an earlier, killed run left, by their first row, and what keeps each new one.
Attempt = Callable[[dict[int, Batch], Callable[[Batch], None]], Record]


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


def settle(identity: Identity, metric: Metric, attempt: Attempt, store: Store) -> Record:
    """Compute a cell and keep its record, whatever becomes of it.

    Args:
        identity: Which cell.
        metric: What is counted in it.
        attempt: Computes it; what it raises, but for a ``UserError``, is a state of the cell too.
        store: Holds the batches of earlier tries, and takes the record.
    """
    key, cell = key_of(identity), identity.cell
    try:
        record = attempt(store.batches(key), lambda batch: store.add_batch(key, batch))
    except UserError:
        raise
    except Exception as error:  # whatever an item's code raises is a state of its cell, and the other cells go on
        record = stateful(identity, metric, "failed", f"{type(error).__name__}: {error}")
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
            return stateful(scene.identity, scene.attacker.module.METRIC, "timeout", f"{reason}, {limit:g} s")
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


def stateful(identity: Identity, metric: Metric, state: State, reason: str) -> Record:
    """The record of a cell that has no number, and why."""
    return Record(identity=identity, metric=metric, state=state, reason=reason, provenance=provenance())
