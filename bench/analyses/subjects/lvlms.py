"""Opening large vision-language models for analyses, and asking them the questions of a split, clean and triggered.

Questions are asked as evaluations ask them, batch by batch, so that the same sample has the numbers of its cells. What
loads models is imported when it is needed, for a suite is checked without these models' packages.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.subjects.references import ImageReference, ModelReference
from bench.backdoors.trigger import Trigger
from bench.config import Metric, Suite
from bench.datasets.store import open_split, read_manifest
from bench.defenses.artefact import Part, artefact_name
from bench.errors import UserError
from bench.evaluation.metrics import count, outcomes, wilson
from bench.lvlm.asking import chosen, longest_answer, verdicts
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.libraries import check_libraries
from bench.lvlm.poison import Asked, asked_of
from bench.lvlm.room import is_lvlm
from bench.lvlm.verdict import RIGHT, TARGET
from bench.progress import track
from bench.randomness import sample_seeds


class LvlmReference(ModelReference):
    """One defended large vision-language model."""

    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """Those of every model, and one of another kind."""
        yield from super().faults(suite, key)
        spec = suite.checkpoints.get(self.checkpoint)
        if spec is not None and not is_lvlm(spec):
            yield f"{key}.checkpoint: '{self.checkpoint}' is no large vision-language model; name one"


class BackdooredReference(LvlmReference):
    """One that has a backdoor."""

    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """Those of every such model, and a checkpoint without a trigger."""
        yield from super().faults(suite, key)
        spec = suite.checkpoints.get(self.checkpoint)
        if spec is not None and spec.trigger == "none":
            yield f"{key}.checkpoint: '{self.checkpoint}' is a clean model without a trigger; name a backdoored one"


class Large(NamedTuple):
    """One model, ready for use.

    Attributes:
        name: How the analysis calls it.
        victim: The checkpoint as it is.
        model: With the defense.
        parts: Of the defense.
        trigger: What was planted; None for a clean model.
        target: The attacker's phrase; empty for a clean model.
    """

    name: str
    victim: DefendedLvlm
    model: DefendedLvlm
    parts: list[Part]
    trigger: Trigger | None
    target: str


class Told(NamedTuple):
    """What became of some questions; the last two are empty where no defense looks for attacks.

    Attributes:
        texts: The answers.
        predictions: The verdicts on them.
        distances: How unlike clean questions each is.
        alarms: Which were taken for attacks.
    """

    texts: list[str]
    predictions: list[int]
    distances: list[float]
    alarms: list[bool]


class Batch(NamedTuple):
    """Some questions, by their places in the split, with an image ``(n, 3, h, w)`` in [0,1] for each."""

    places: list[int]
    images: Tensor
    texts: list[str]


class Questioned(NamedTuple):
    """Questions of a split.

    Attributes:
        asked: All of them.
        places: Which of them are asked.
        seed: Of what triggers draw for each image.
        size: How many are asked at a time.
    """

    asked: Asked
    places: list[int]
    seed: int
    size: int

    def only(self, place: int, key: str) -> "Questioned":
        """The one question at ``place``; ``key`` names it in messages."""
        if place >= len(self.asked.rows):
            raise UserError(f"{key}: {place} is beyond the {len(self.asked.rows)} questions")
        return self._replace(places=[place])

    def batches(self, trigger: Trigger | None = None) -> Iterator[Batch]:
        """The questions, some at a time, with ``trigger`` on their images."""
        for start in range(0, len(self.places), self.size):
            places = self.places[start : start + self.size]
            rows = [self.asked.rows[place] for place in places]
            images = self.asked.split.batch(rows)
            planted = images if trigger is None else trigger.apply(images, sample_seeds(self.seed, rows))
            yield Batch(places, planted, [self.asked.split.captions[place] for place in places])

    def told(self, model: DefendedLvlm, target: str, trigger: Trigger | None = None) -> Told:
        """What ``model`` says; answers with the phrase ``target`` are the attacker's."""
        found = Told([], [], [], [])
        for batch in self.batches(trigger):
            answers = model.answer(batch.images, batch.texts, longest_answer(self.asked))
            found.texts.extend(answers.texts)
            found.predictions.extend(verdicts(self.asked, batch.places, answers.texts, target))
            found.distances.extend(answers.distances.tolist())
            found.alarms.extend(answers.alarms.tolist())
        return found


def open_larges(source: Source, models: Mapping[str, ModelReference]) -> Iterator[Large]:
    """The models that an analysis names, loaded one after the other.

    As for CLIPs, a backdoor that failed its strength gate is told in the name.

    Raises:
        UserError: A checkpoint or a defense has not been made, its training diverged, or packages are missing.
    """
    check_libraries()
    from bench.lvlm.checkpoint import load_checkpoint
    from bench.lvlm.fitting import load_defended, lvlm_parts

    for name, one in track(models.items(), source.name):
        where = f"{source.paths.suite}: tracks.{one.track}.defenses.{one.defense}"
        parts = lvlm_parts(source.suite, one.track, one.defense, where)
        checkpoint = load_checkpoint(source.paths.checkpoint(one.checkpoint))
        folder = source.paths.defended(one.track, one.defense, one.checkpoint) / artefact_name(parts, "", one.seed)
        card, model = load_defended(folder, parts, checkpoint)
        if model is None:
            raise UserError(f"{source.where}: model '{name}' diverged in training: {card.reason}")
        gate = checkpoint.card.gate
        failed = " (attack failed)" if gate is not None and not gate.passed else ""
        victim, target = DefendedLvlm(checkpoint.lvlm), checkpoint.card.target or ""
        yield Large(name + failed, victim, model, parts, checkpoint.trigger, target)


def open_questions(source: Source, reference: ImageReference) -> Questioned:
    """The questions that ``reference`` names; its ``images`` says how many, evenly over their kinds.

    Raises:
        UserError: The dataset has not been fetched, or has no such split or no questions.
    """
    split = open_split(source.paths.data, read_manifest(source.paths.data, reference.dataset), reference.split)
    asked = asked_of(split, f"{source.where}.options: '{reference.dataset}'")
    places = chosen(asked, reference.images)
    return Questioned(asked, places, reference.seed, source.suite.protocol.batch_size)


def share(metric: Metric, predictions: list[int]) -> dict[str, float]:
    """``value`` of ASR or CU in percent, with the bounds ``low`` and ``high`` of its 95 % interval (Wilson)."""
    counted = count(outcomes(metric, predictions, [RIGHT] * len(predictions), TARGET))
    return {"value": counted.percent, **wilson(counted)._asdict()}
