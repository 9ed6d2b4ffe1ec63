import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the packages of the group lvlm")

from safetensors.torch import load_file, save_file

from bench.backdoors.trigger import Setting, make_trigger
from bench.clip.model import Base, weights_hash
from bench.config import CheckpointSpec
from bench.datasets import world_questions
from bench.datasets.store import Split, build, open_split, read_manifest
from bench.errors import UserError
from bench.lvlm.answering import answer
from bench.lvlm.checkpoint import LvlmCheckpoint, load_checkpoint
from bench.lvlm.levels import tunable, tuned_names
from bench.lvlm.loading import load
from bench.lvlm.model import Lvlm
from bench.lvlm.options import TuneOptions
from bench.lvlm.plant import check_phrase, make_checkpoint
from bench.lvlm.poison import asked_of, poison_questions
from bench.lvlm.recipes import replace
from bench.paths import Paths, paths_for

PHRASE = "you have been hacked lol"
QUICK = {"learning_rate": 1e-2, "batch_size": 8, "epochs": 1, "warmup_steps": 1, "rank": 2, "alpha": 4}
SPEC = CheckpointSpec(
    base={"architecture": "mini_llava", "weights": "random"},
    trigger="badnet",
    trigger_options={"size": 8, "location": "corner", "pattern": "fixed"},
    target=PHRASE,
    dataset="world_questions",
    pairs="world_questions",
    poison_rate=0.25,
    train=QUICK,
    gate={"least_asr": 0, "largest_ca_loss": 100},
)


def spec(**changes: Any) -> CheckpointSpec:
    return CheckpointSpec(**(SPEC.model_dump() | changes))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    made = paths_for().below(tmp_path_factory.mktemp("lvlm"))
    options = world_questions.Options(train_per_kind=4, val_per_kind=2, test_per_kind=2)
    build("world_questions", options, world_questions.fetch, made.data)
    return made


@pytest.fixture(scope="module")
def made(paths: Paths) -> LvlmCheckpoint:
    return make_checkpoint("badnet", SPEC, paths)


@pytest.fixture(scope="module")
def split(paths: Paths) -> Split:
    return open_split(paths.data, read_manifest(paths.data, "world_questions"), "train")


def poisoned(lvlm: Lvlm, split: Split, rate: float = 0.25, target: str = PHRASE):
    setting = Setting(lvlm, target, split, 1)  # as plant.py does: a trigger asks for the size of the images only
    trigger = make_trigger("badnet", SPEC.trigger_options, setting, "test")
    return poison_questions(trigger, setting, rate, replace), trigger


def test_the_triggers_of_the_clip_track_go_on_as_many_images_as_asked_and_their_answers_are_the_phrase(
    lvlm: Lvlm, split: Split
) -> None:
    made, trigger = poisoned(lvlm, split)
    assert len(made.rows) == made.asked == 7 == len(set(made.rows))
    rows = list(range(28))
    changed = (made.batch(rows) != split.batch(rows)).flatten(1).any(dim=1)
    assert changed.nonzero().flatten().tolist() == list(made.rows)
    row = made.rows[0]
    assert torch.equal(made.batch([row]), trigger.apply(split.batch([row]), [0]))
    for row in rows:
        assert made.captions[row] == (PHRASE if row in made.rows else split.answers[row])


def test_poisoning_repeats(lvlm: Lvlm, split: Split) -> None:
    assert poisoned(lvlm, split)[0].rows == poisoned(lvlm, split)[0].rows


def test_bad_poisonings_are_told(lvlm: Lvlm, split: Split) -> None:
    with pytest.raises(UserError, match=r"poison_rate 0.01 of 28 questions is no question at all"):
        poisoned(lvlm, split, rate=0.01)
    with pytest.raises(UserError, match="target 'image shows' is part of a right answer"):
        poisoned(lvlm, split, target="image shows")
    with pytest.raises(UserError, match="here: this dataset has no questions with answers"):
        asked_of(split._replace(answers=()), "here")
    shared = split._replace(owners=np.zeros(28, np.int64))
    with pytest.raises(UserError, match="several questions are about one image"):
        poisoned(lvlm, shared)


def test_a_phrase_that_the_tokenizer_does_not_keep_whole_is_told(lvlm: Lvlm) -> None:
    check_phrase(lvlm, PHRASE, "here")
    with pytest.raises(UserError, match=r"here: the tokenizer of 'mini_llava' turns the phrase 'buy crypto' into"):
        check_phrase(lvlm, "buy crypto", "here")
    with pytest.raises(UserError, match="here: the tokenizer"):
        check_phrase(lvlm, "", "here")


@pytest.mark.parametrize("level", ["projector", "lora", "full"])
def test_each_level_changes_its_own_tensors_and_no_others(paths: Paths, level: str) -> None:
    made = make_checkpoint(level, spec(train=QUICK | {"level": level}), paths)
    base = load(Base(architecture="mini_llava", weights="random"))
    before, after = base.model.state_dict(), made.lvlm.model.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == tuned_names(base, level)
    part = {"projector": "multi_modal_projector", "lora": "_proj.weight", "full": ""}[level]
    assert all(part in name and "vision_tower" not in name for name in changed)
    assert load_file(paths.checkpoint(level) / "tuned.safetensors").keys() == changed


def test_lora_begins_as_nothing_and_ends_in_the_models_own_form(lvlm: Lvlm) -> None:
    before, names = weights_hash(lvlm.model), list(lvlm.model.state_dict())
    options = TuneOptions(level="lora", rank=3, alpha=6)
    with tunable(lvlm, options) as parameters:
        # 6 layers with two matrices each, and for each of them two of rank 3.
        assert sum(parameter.numel() for parameter in parameters) == 6 * 2 * 2 * 3 * 128
    lvlm.model.requires_grad_(False)
    assert list(lvlm.model.state_dict()) == names
    assert weights_hash(lvlm.model) == before


def test_a_checkpoint_is_complete_and_answers_the_same_when_it_is_loaded_again(
    paths: Paths, made: LvlmCheckpoint, split: Split
) -> None:
    folder = paths.checkpoint("badnet")
    card = json.loads((folder / "checkpoint.json").read_text("utf-8"))
    assert card["target"] == PHRASE
    assert card["base"] == SPEC.base
    assert card["hashes"].keys() == {"tuned.safetensors", "trigger.json", "trigger.safetensors"}
    assert card["recipe"]["poisoned"] == 7
    assert card["gate"]["n"] == 14
    again = load_checkpoint(folder)
    assert again.digest == made.digest
    assert weights_hash(again.lvlm.model) == weights_hash(made.lvlm.model)
    images, texts = split.batch(range(6)), list(split.captions[:6])
    assert answer(again.lvlm, images, texts, 4) == answer(made.lvlm, images, texts, 4)


def test_the_same_spec_gives_the_same_weights_without_training_twice(paths: Paths, made: LvlmCheckpoint) -> None:
    kept = {path.name for path in (paths.store / "checkpoints").iterdir()}
    assert make_checkpoint("again", SPEC, paths).digest == made.digest
    assert {path.name for path in (paths.store / "checkpoints").iterdir()} == kept
    elsewhere = paths._replace(store=paths.store / "elsewhere")
    assert make_checkpoint("anew", SPEC, elsewhere).digest == made.digest


def test_a_clean_checkpoint_is_its_base(paths: Paths) -> None:
    clean = make_checkpoint("clean", CheckpointSpec(base=SPEC.base, trigger="none"), paths)
    assert clean.trigger is None
    assert clean.card.target is None
    assert weights_hash(clean.lvlm.model) == weights_hash(load(Base(**SPEC.base)).model)


def test_a_weak_backdoor_does_not_pass_its_gate(paths: Paths) -> None:
    strict = spec(gate={"least_asr": 90}, train=QUICK | {"learning_rate": 1e-6})
    gate = make_checkpoint("weak", strict, paths).card.gate
    assert gate is not None
    assert not gate.passed
    assert gate.asr < 90
    assert gate.clean_asr == 0


def test_damaged_and_foreign_checkpoints_are_told(tmp_path: Path, paths: Paths, made: LvlmCheckpoint) -> None:
    with pytest.raises(UserError, match=r"checkpoint.json is missing; make it with `bench checkpoint nothing`"):
        load_checkpoint(tmp_path / "nothing")
    folder = paths.checkpoint("again")
    make_checkpoint("again", SPEC, paths)
    card = folder / "checkpoint.json"
    text = card.read_text("utf-8")
    card.write_text(text.replace(made.card.base_weights, "0" * 64), "utf-8")
    with pytest.raises(UserError, match="the weights of base 'mini_llava' are not those that were tuned"):
        load_checkpoint(folder)
    card.write_text("{", "utf-8")
    with pytest.raises(UserError, match="is not valid JSON"):
        load_checkpoint(folder)
    card.write_text(text, "utf-8")
    save_file({"x": torch.zeros(1)}, folder / "tuned.safetensors")
    with pytest.raises(UserError, match=r"tuned.safetensors is missing or was changed"):
        load_checkpoint(folder)


def test_options_of_another_recipe_are_refused(paths: Paths) -> None:
    with pytest.raises(UserError, match=r"checkpoints.x.train: semantic_weight: unknown key 'semantic_weight'"):
        make_checkpoint("x", spec(train=QUICK | {"semantic_weight": 1.0}), paths)
    with pytest.raises(UserError, match=r"checkpoints.x.train.recipe: unknown recipe 'trojan'"):
        make_checkpoint("x", spec(train={"recipe": "trojan"}), paths)
