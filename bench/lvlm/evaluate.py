"""Evaluating defended vision-language models: the cells, store and records of all other tracks, with other outcomes.

A cell's sample is questions instead of images, and in the place of a predicted class stands the verdict on an answer
(``verdict.py``), so that counting, intervals, tables and ``bench verify`` need nothing of their own. ``clean`` then
gives the clean utility (CU) and ``trigger`` the attack success rate (ASR); ``v_attack`` gives the robust accuracy (RA).
What a guard thought of each question is kept beside it.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from bench.config import Metric, Suite
from bench.datasets.store import open_split, read_manifest
from bench.defenses.artefact import ArtefactCard, Part, artefact_name
from bench.errors import UserError
from bench.evaluation.adversary import Attacker, load_attacker
from bench.evaluation.cells import cells_of
from bench.evaluation.compute import settle, stateful
from bench.evaluation.metrics import count, outcomes, wilson
from bench.evaluation.record import Cell, Cost, Identity, Outcome, Record
from bench.evaluation.run import write_records
from bench.evaluation.store import Batch, Store, key_of
from bench.items import source_hash
from bench.lvlm.asking import attacked_images, chosen, longest_answer, verdicts
from bench.lvlm.checkpoint import LvlmCheckpoint, load_checkpoint
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.fitting import load_defended, lvlm_parts
from bench.lvlm.poison import Asked, asked_of
from bench.lvlm.room import VALUES, attacks_lvlm, no_attack
from bench.lvlm.verdict import PEOPLE, RIGHT, TARGET, vqa_score, without_phrase
from bench.lvlm.views import Sight, sight_of
from bench.memory import peak_memory_mb
from bench.paths import Paths
from bench.planned import Absent, leave_note
from bench.progress import track
from bench.provenance import provenance

_METRICS: dict[str, Metric] = {"CA": "CU", "ASR": "ASR", "RA": "RA"}


class Scene(NamedTuple):
    """Everything one cell is computed from."""

    identity: Identity
    attacker: Attacker
    model: DefendedLvlm
    card: ArtefactCard
    checkpoint: LvlmCheckpoint
    asked: Asked
    places: list[int]
    sight: Sight

    @property
    def metric(self) -> Metric:
        """What is counted."""
        return _METRICS[self.attacker.module.METRIC]


def evaluate(
    suite: Suite, track_name: str, defense: str, attack: str, paths: Paths, limit: int | None = None
) -> list[Record]:
    """Compute (or find in the store) all cells of one defense under one attack, and write their records.

    Args and return value are those of ``bench.evaluation.run.evaluate``.

    Raises:
        UserError: Something is missing, or the attack is one on classifiers.
    """
    absent, where = Absent(suite), f"{paths.suite}: tracks.{track_name}.defenses.{defense}"
    wanted = list(cells_of(suite, track_name, defense, attack, limit))
    cells = [cell for cell in wanted if not absent.cell(track_name, cell)]
    if not cells:
        leave_note(paths.evaluated(track_name, defense, attack), absent.cell(track_name, wanted[0]))
        return []
    parts, attacker = lvlm_parts(suite, track_name, defense, where), load_attacker(suite, attack, paths)
    if not attacks_lvlm(attacker.module):
        raise UserError(f"{paths.suite}: tracks.{track_name}.attacks: {no_attack(attack)}")
    # Cells come checkpoint by checkpoint, and more than one large model may not fit.
    open_checkpoint = lru_cache(maxsize=1)(lambda name: load_checkpoint(paths.checkpoint(name)))
    store = Store(paths.store)
    records = list[Record]()
    for cell in track(cells, f"{defense} under {attack}"):
        checkpoint: LvlmCheckpoint = open_checkpoint(cell.checkpoint)
        records.append(_record(suite, track_name, cell, parts, attacker, checkpoint, paths, store))
    if limit is None:
        write_records(records, paths.evaluated(track_name, defense, attack))
    return records


def _record(
    suite: Suite,
    track_name: str,
    cell: Cell,
    parts: list[Part],
    attacker: Attacker,
    checkpoint: LvlmCheckpoint,
    paths: Paths,
    store: Store,
) -> Record:
    folder = paths.defended(track_name, cell.defense, cell.checkpoint) / artefact_name(parts, "", cell.seed)
    card, model = load_defended(folder, parts, checkpoint)
    manifest = read_manifest(paths.data, cell.dataset)
    identity = Identity(
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
    if (found := store.get(key_of(identity))) is not None:
        return found
    metric, gate = _METRICS[attacker.module.METRIC], checkpoint.card.gate
    if gate is not None and not gate.passed:
        reason = f"too weak a backdoor: ASR {gate.asr:.1f} %, CU {gate.ca:.1f} % (clean {gate.clean_ca:.1f} %)"
        return stateful(identity, metric, "attack_failed", reason)
    if model is None:
        return stateful(identity, metric, "diverged", card.reason)
    where = f"{paths.suite}: tracks.{track_name}.datasets ({cell.dataset})"
    asked = asked_of(open_split(paths.data, manifest, cell.split), where)
    if getattr(attacker.module, "NEEDS", "") == VALUES and not asked.swaps:
        raise UserError(f"{where}: this dataset does not say what '{attacker.name}' should turn each image into")

    def scene(defended: DefendedLvlm) -> Scene:
        sight = sight_of(cell.threat_model, attacker, defended, checkpoint.trigger)
        return Scene(identity, attacker, defended, card, checkpoint, asked, chosen(asked, _size(identity)), sight)

    return settle(identity, metric, lambda finished, keep: compute(scene(model), finished, keep), store)


def compute(scene: Scene, finished: dict[int, Batch], keep: Callable[[Batch], None]) -> Record:
    """Ask all questions of the cell, batch by batch, and count.

    Args:
        scene: What to compute.
        finished: Batches that an earlier, killed run left, by their first place.
        keep: Called with each new batch.
    """
    batches, size = list[Batch](), scene.identity.protocol.batch_size
    chunks = [scene.places[start : start + size] for start in range(0, len(scene.places), size)]
    for chunk in track(chunks, scene.identity.cell.name):
        batch = finished.get(chunk[0])
        if batch is None or batch.rows != chunk:
            batch = _ask(scene, chunk)
            keep(batch)
        batches.append(batch)
    return _finished(scene, batches)


def _ask(scene: Scene, places: list[int]) -> Batch:
    """Attack the images of some questions, ask them, and judge the answers."""
    start, asked, target = time.monotonic(), scene.asked, scene.checkpoint.card.target or ""
    attacked, images = attacked_images(scene.attacker, scene.sight, asked, places, scene.identity.cell.seed)
    texts = [asked.split.captions[place] for place in places]
    answers = scene.model.answer(images, texts, longest_answer(asked))
    distances = [round(distance, 4) for distance in answers.distances.tolist()]
    seconds, beside, scores = round(time.monotonic() - start, 3), list[bool](), list[float]()
    if not asked.swaps:
        rest = [without_phrase(text, target) if target else text for text in answers.texts]
        beside = [found == RIGHT for found in verdicts(asked, places, rest, "")]
        if all(len(asked.answers[place]) == PEOPLE for place in places):
            pairs = zip(answers.texts, places, strict=True)
            scores = [round(vqa_score(text, asked.answers[place]), 4) for text, place in pairs]
    return Batch(
        places,
        verdicts(asked, places, answers.texts, target),
        sorted(attacked.flags),
        attacked.forwards,
        attacked.backwards,
        seconds,
        distances,
        answers.alarms.tolist(),
        beside,
        scores,
    )


def _finished(scene: Scene, batches: list[Batch]) -> Record:
    predictions = [prediction for batch in batches for prediction in batch.predictions]
    alarms = [alarm for batch in batches for alarm in batch.alarms]
    beside = [right for batch in batches for right in batch.beside]
    scores = [score for batch in batches for score in batch.scores] if scene.metric == "CU" else []
    counted = count(outcomes(scene.metric, predictions, [RIGHT] * len(predictions), TARGET))
    interval, seconds = wilson(counted), sum(batch.seconds for batch in batches)
    recipe, images = scene.checkpoint.card.recipe, len({scene.asked.rows[place] for place in scene.places})
    shares = (("alarms", alarms), ("right_beside", beside), ("vqa", scores))
    variants = {name: 100 * sum(found) / len(found) for name, found in shares if found}
    if scene.asked.swaps and predictions:
        variants["wanted"] = 100 * predictions.count(TARGET) / len(predictions)
    return Record(
        identity=scene.identity,
        metric=scene.metric,
        state="done",
        n=counted.total,
        hits=counted.hits,
        value=counted.percent,
        low=interval.low,
        high=interval.high,
        variants=variants,
        poisoned=recipe.poisoned,
        poison_rate=recipe.poison_rate,
        flags=tuple(sorted({flag for batch in batches for flag in batch.flags})),
        tuned_parameters=scene.card.tuned_parameters,
        outcome=Outcome(
            rows=tuple(scene.places),
            labels=(RIGHT,) * len(predictions),
            predictions=tuple(predictions),
            target=TARGET,
            distances=tuple(distance for batch in batches for distance in batch.distances),
        ),
        cost=Cost(
            wall_s=round(seconds, 3),
            images_per_s=round(len(predictions) / max(seconds, 1e-3), 2),
            peak_memory_mb=peak_memory_mb(),
            forwards=round(sum(batch.forwards for batch in batches) / max(1, images), 2),
            backwards=round(sum(batch.backwards for batch in batches) / max(1, images), 2),
        ),
        provenance=provenance(),
    )


def _size(identity: Identity) -> int | None:
    """How many questions the cell has; all if None."""
    sizes = [size for size in (identity.images, identity.cell.limit) if size is not None]
    return min(sizes) if sizes else None
