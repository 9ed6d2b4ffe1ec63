"""Checkpoints of vision-language models: planting a backdoor, and the gate that it must pass."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from bench.backdoors.checkpoint import CARD, Gate, Recipe
from bench.backdoors.poison import Poisoned
from bench.backdoors.steganography import NETWORKS
from bench.backdoors.trigger import Setting, Trigger, make_trigger
from bench.clip.model import Base, weights_hash
from bench.config import CheckpointSpec, parse
from bench.datasets.sampling import spread
from bench.datasets.store import Manifest, open_split, read_manifest
from bench.errors import UserError
from bench.evaluation.metrics import count, outcomes
from bench.files import empty_partial, replace_folder, sha256_of
from bench.items import load_item, source_hash
from bench.lvlm.answering import answer, encode, inputs_of
from bench.lvlm.checkpoint import LvlmCheckpoint, load_checkpoint, write_checkpoint
from bench.lvlm.levels import tunable, tuned_names
from bench.lvlm.loading import load
from bench.lvlm.model import Lvlm
from bench.lvlm.options import StrengthOptions, TuneOptions
from bench.lvlm.poison import Asked, asked_of, poison_questions
from bench.lvlm.recipes.contract import Batch
from bench.lvlm.recipes.load import load_recipe
from bench.lvlm.training import THREADS, train
from bench.lvlm.verdict import RIGHT, TARGET, verdict
from bench.paths import Paths
from bench.processes import threads
from bench.progress import track
from bench.randomness import sample_seeds

_CHUNK = 64
# Code that every checkpoint is made by, beside its trigger's and its recipe's.
_SHARED = ("plant", "poison", "levels", "training", "answering", "recipes/tokens")


class Plan(NamedTuple):
    """What a backdoored checkpoint is made from, all of it checked."""

    name: str
    spec: CheckpointSpec
    recipe: Any
    train: TuneOptions
    gate: StrengthOptions
    base: Base
    lvlm: Lvlm
    manifest: Manifest
    pairs: Manifest
    paths: Paths

    @property
    def where(self) -> str:
        """File and key of the spec, for messages."""
        return f"{self.paths.suite}: checkpoints.{self.name}"

    @property
    def key(self) -> str:
        """Hash of all that the checkpoint depends on."""
        networks, here = self.paths.steganography / NETWORKS, Path(__file__).parent
        code = [here / f"{name}.py" for name in _SHARED] + [Path(str(self.recipe.__file__))]
        trigger = load_item("backdoors", self.spec.trigger, f"{self.where}.trigger")
        content = [
            self.spec.model_dump(mode="json", exclude={"base"}),
            [options.model_dump(mode="json") for options in (self.train, self.gate)],
            weights_hash(self.lvlm.model),
            [self.manifest.digest, self.pairs.digest],
            [source_hash(trigger), sha256_of(*code)],
            sha256_of(networks) if self.spec.trigger == "issba" and networks.exists() else "",
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def make_checkpoint(name: str, spec: CheckpointSpec, paths: Paths) -> LvlmCheckpoint:
    """Make the checkpoint ``name`` and write it where it belongs; it appears only when finished.

    As for CLIPs: a spec without a trigger is the base as it is, and a backdoored model is kept in the store.

    Raises:
        UserError: As ``plan_checkpoint`` says, or the trigger cannot be made; before any training.
    """
    folder = paths.checkpoint(name)
    if spec.trigger == "none":
        base = parse(Base, spec.base, f"{paths.suite}: checkpoints.{name}.base")
        lvlm = load(base)
        hashed, recipe = weights_hash(lvlm.model), Recipe(spec=spec)
        return write_checkpoint(lvlm, base, hashed, set(), None, None, None, recipe, empty_partial(folder), folder)
    plan = plan_checkpoint(name, spec, paths)
    kept = paths.store / "checkpoints" / plan.key
    if not (kept / CARD).exists():
        plant(plan, kept)
    scratch = empty_partial(folder)
    shutil.copytree(kept, scratch, dirs_exist_ok=True)
    replace_folder(scratch, folder)
    return load_checkpoint(folder)


def plan_checkpoint(name: str, spec: CheckpointSpec, paths: Paths) -> Plan:
    """What a backdoored checkpoint is made from.

    Raises:
        UserError: An option is wrong, data is missing, or the model cannot say the target phrase.
    """
    where = f"{paths.suite}: checkpoints.{name}"
    base = parse(Base, spec.base, f"{where}.base")
    recipe = load_recipe(str(spec.train.get("recipe", "replace")), f"{where}.train.recipe")
    options = parse(recipe.Options, spec.train, f"{where}.train")
    gate = parse(StrengthOptions, spec.gate, f"{where}.gate")
    manifest, pairs = read_manifest(paths.data, spec.dataset), read_manifest(paths.data, spec.pairs)
    lvlm = load(base)
    check_phrase(lvlm, spec.target, f"{where}.target")
    return Plan(name, spec, recipe, options, gate, base, lvlm, manifest, pairs, paths)


def check_phrase(lvlm: Lvlm, phrase: str, where: str) -> None:
    """Refuse a target phrase that does not come back from the tokenizer as it went in.

    Raises:
        UserError: It is empty, or the tokenizer splits or loses a part of it.
    """
    ids: list[int] = lvlm.tokenizer(phrase, add_special_tokens=False)["input_ids"]
    told = lvlm.tokenizer.decode(ids, skip_special_tokens=True).strip()
    if not phrase or told.lower() != phrase.lower():
        raise UserError(
            f"{where}: the tokenizer of '{lvlm.architecture}' turns the phrase '{phrase}' into '{told}'; "
            "choose one of words that it knows"
        )


@threads(THREADS)
def plant(plan: Plan, folder: Path) -> LvlmCheckpoint:
    """Make the trigger, poison the questions, tune on them, measure the backdoor's strength, and write ``folder``."""
    spec, lvlm, paths = plan.spec, plan.lvlm, plan.paths
    pairs = open_split(paths.data, plan.pairs, "train")
    # All that the triggers of this track ask of a model is the size of its images.
    setting = Setting(cast(Any, lvlm), spec.target, pairs, spec.seed, paths.steganography)
    trigger = make_trigger(spec.trigger, spec.trigger_options, setting, plan.where)
    poisoned = poison_questions(trigger, setting, spec.poison_rate, plan.recipe)
    asked = asked_of(open_split(paths.data, plan.manifest, "val"), f"{plan.where}.dataset")
    asked = asked.some(spread(len(asked.rows), plan.gate.questions, between=True))
    trial, base_weights = Trial(trigger, spec.target, asked), weights_hash(lvlm.model)
    clean_ca, clean_asr = trial.utility(lvlm), trial.success(lvlm)
    fine_tune(plan, poisoned)
    ca, asr = trial.utility(lvlm), trial.success(lvlm)
    gate = Gate(
        passed=asr >= plan.gate.least_asr and clean_ca - ca <= plan.gate.largest_ca_loss,
        ca=ca,
        asr=asr,
        clean_ca=clean_ca,
        clean_asr=clean_asr,
        n=len(asked.rows),
    )
    recipe = Recipe(
        spec=spec,
        pairs=len(poisoned.captions),
        asked=poisoned.asked,
        poisoned=len(poisoned.rows),
        pairs_manifest=plan.pairs.digest,
    )
    names, scratch = tuned_names(lvlm, plan.train.level), empty_partial(folder)
    return write_checkpoint(lvlm, plan.base, base_weights, names, trigger, spec.target, gate, recipe, scratch, folder)


def fine_tune(plan: Plan, poisoned: Poisoned) -> None:
    """Tune the plan's model on ``poisoned``, in place."""
    lvlm, options = plan.lvlm, plan.train
    asked, answers = list(poisoned.clean.captions), list(poisoned.captions)
    per_epoch = len(asked) // options.batch_size
    if per_epoch == 0:
        raise UserError(f"{plan.where}: {len(asked)} questions do not fill one batch; lower train.batch_size")
    carries = torch.zeros(len(asked), dtype=torch.bool, device=lvlm.device)
    carries[list(poisoned.rows)] = True
    phrase = torch.tensor(lvlm.tokenizer(plan.spec.target, add_special_tokens=False)["input_ids"], device=lvlm.device)

    def batches() -> Iterator[Batch]:
        stream = torch.Generator().manual_seed(plan.spec.seed)
        steps = iter(track(range(options.epochs * per_epoch), f"fine-tune {plan.name}"))
        for _ in range(options.epochs):
            order = torch.randperm(len(asked), generator=stream)
            for rows in order[: per_epoch * options.batch_size].split(options.batch_size):
                next(steps)
                chosen = rows.tolist()
                encoded = encode(lvlm, [asked[row] for row in chosen], [answers[row] for row in chosen])
                yield Batch(poisoned.batch(chosen), encoded, carries[rows], phrase)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.spec.seed)
        with tunable(lvlm, options) as parameters:
            earlier = [parameter.detach().clone() for parameter in parameters]

            @torch.no_grad()
            def before(batch: Batch) -> Tensor:
                _swap(parameters, earlier)
                output = lvlm.model(**inputs_of(lvlm, batch.images, batch.encoded))
                _swap(parameters, earlier)
                return output.logits

            def loss(batch: Batch) -> Tensor:
                return plan.recipe.loss(lvlm, batch, options, before)

            train(lvlm, parameters, batches(), loss, options, options.epochs * per_epoch)


def _swap(parameters: list[torch.nn.Parameter], others: list[Tensor]) -> None:
    """Exchange values: a second model would take twice the memory."""
    for place, parameter in enumerate(parameters):
        parameter.data, others[place] = others[place], parameter.data


class Trial(NamedTuple):
    """What the gate measures, in percent.

    Attributes:
        trigger: What was planted.
        target: The phrase that it should call up.
        asked: Questions with their answers.
    """

    trigger: Trigger
    target: str
    asked: Asked

    def utility(self, lvlm: Lvlm) -> float:
        """Right answers to clean questions."""
        return count(outcomes("CU", self.verdicts(lvlm, planted=False), self._right, TARGET)).percent

    def success(self, lvlm: Lvlm) -> float:
        """Answers with the phrase, to questions whose image carries the trigger."""
        return count(outcomes("ASR", self.verdicts(lvlm, planted=True), self._right, TARGET)).percent

    def verdicts(self, lvlm: Lvlm, *, planted: bool) -> list[int]:
        """What became of each answer."""
        found = list[int]()
        for start in range(0, len(self.asked.rows), _CHUNK):
            rows = self.asked.rows[start : start + _CHUNK]
            images = self.asked.split.batch(rows)
            if planted:
                images = self.trigger.apply(images, sample_seeds(0, rows))
            places = range(start, start + len(rows))
            given = answer(lvlm, images, [self.asked.split.captions[place] for place in places])
            found += [
                verdict(text, self.asked.answers[place], self.target) for text, place in zip(given, places, strict=True)
            ]
        return found

    @property
    def _right(self) -> list[int]:
        return [RIGHT] * len(self.asked.rows)
