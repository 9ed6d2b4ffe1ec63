"""Which data a defense is tuned on: shots, left-out classes, prompts, other datasets."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bench.backdoors.checkpoint import load_checkpoint
from bench.backdoors.make import make_checkpoint
from bench.clip.defended import DefendedCLIP
from bench.clip.model import build as build_clip
from bench.clip.model import save_weights
from bench.clip.staged import StagedCLIP
from bench.config import Suite, load_suite
from bench.datasets import captions, colours, shapes
from bench.datasets.store import build, open_split, read_manifest
from bench.defenses import cleanclip, fitting, tecoa
from bench.defenses.artefact import load_artefact, parts_of
from bench.defenses.fitting import fit_all, without_class
from bench.defenses.r_adapt import white_anchor
from bench.defenses.tower import load_tower
from bench.errors import UserError
from bench.evaluation.run import evaluate
from bench.paths import Paths, paths_for
from bench.processes import VARIABLE

BASE = {"architecture": "mini", "weights": "random"}
CONTENT = {
    "protocol": {"version": 1, "batch_size": 8, "seeds": [1], "shots": 2},
    "datasets": {"shapes": {}, "colours": {}, "captions": {}},
    "checkpoints": {
        "clean": {"base": BASE, "trigger": "none"},
        "badnet": {
            "base": BASE,
            "trigger": "badnet",
            "trigger_options": {"size": 4},
            "target": "heart",
            "dataset": "shapes",
            "pairs": "captions",
            "poison_rate": 0.1,
            "train": {"epochs": 1, "batch_size": 16},
            "gate": {"least_asr": 0, "largest_ca_loss": 100},
        },
    },
    "attacks": {"clean": {"threat_model": "none"}},
    "tables": {},
}
PROBE = {"method": "linear_probe", "options": {"epochs": 1}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and two checkpoints, read only."""
    folder = tmp_path_factory.mktemp("made")
    few = {"train_per_class": 3, "val_per_class": 1, "test_per_class": 1}
    for name, module in (("shapes", shapes), ("colours", colours)):
        build(name, module.Options(**few), module.fetch, folder / "data")
    build("captions", captions.Options(pairs=32), captions.fetch, folder / "data")
    suite = _suite(folder, {"none": {}})
    for name, spec in suite.checkpoints.items():
        make_checkpoint(name, spec, _paths(folder))
    return folder


@pytest.fixture
def paths(made: Path, tmp_path: Path) -> Paths:
    return _paths(tmp_path)._replace(data=made / "data")


def _paths(folder: Path) -> Paths:
    places = {name: folder / name for name in ("data", "models", "results", "store")}
    return paths_for()._replace(**places)


def _suite(folder: Path, defenses: dict[str, Any], datasets: tuple[str, ...] = ("shapes",)) -> Suite:
    track = {"checkpoints": ["badnet"], "datasets": list(datasets), "attacks": ["clean"], "defenses": defenses}
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(CONTENT | {"tracks": {"main": track}}, sort_keys=False))
    return load_suite(folder / "benchmark.yaml")


def _fit(suite: Suite, defense: str, made: Path, paths: Paths, checkpoint: str = "badnet") -> dict[str, dict]:
    """Artefact cards by folder name."""
    fit_all(suite, "main", defense, checkpoint, load_checkpoint(made / "models" / "base" / checkpoint), paths)
    folder = paths.defended("main", defense, checkpoint)
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/artefact.json"))}


def test_shots_and_the_tuning_dataset_are_the_entrys_own(made: Path, tmp_path: Path, paths: Paths) -> None:
    entry = PROBE | {"tuning": {"dataset": "colours", "shots": 1}}
    suite = _suite(tmp_path, {"none": {}, "probe": PROBE, "elsewhere": entry}, ("shapes", "colours"))
    both, one = _fit(suite, "probe", made, paths), _fit(suite, "elsewhere", made, paths)
    assert list(both) == ["colours.seed1", "shapes.seed1"]
    assert list(one) == ["colours.seed1"]
    assert [card["shots"] for card in (*both.values(), *one.values())] == [2, 2, 1]
    assert list(one["colours.seed1"]["data"]) == ["colours"]


def test_a_model_tuned_elsewhere_is_tested_on_every_dataset(made: Path, tmp_path: Path, paths: Paths) -> None:
    prompts = {"method": "rvpt", "options": {"epochs": 1, "length": 1}, "tuning": {"dataset": "colours", "shots": 1}}
    suite = _suite(tmp_path, {"none": {}, "prompts": prompts}, ("shapes", "colours"))
    _fit(suite, "prompts", made, paths)
    base = paths.models / "base"
    base.mkdir(parents=True)
    (base / "badnet").symlink_to(made / "models" / "base" / "badnet")
    records = evaluate(suite, "main", "prompts", "clean", paths)
    assert [(record.identity.cell.dataset, record.state) for record in records] == [
        ("shapes", "done"),
        ("colours", "done"),
    ]
    assert len({record.identity.artefact for record in records}) == 1


def test_the_target_is_left_out_of_tuning(made: Path, tmp_path: Path, paths: Paths) -> None:
    suite = _suite(tmp_path, {"none": {}, "probe": PROBE | {"tuning": {"without_target": True}}})
    (card,) = _fit(suite, "probe", made, paths).values()
    assert card["left_out"] == "heart"
    # A head for 11 of the 12 classes, on 128 numbers.
    assert card["tuned_parameters"] == 11 * 129


def test_a_clean_checkpoint_has_no_target_to_leave_out(made: Path, tmp_path: Path, paths: Paths) -> None:
    suite = _suite(tmp_path, {"none": {}, "probe": PROBE | {"tuning": {"without_target": True}}})
    with pytest.raises(UserError, match=r"probe\.tuning\.without_target"):
        _fit(suite, "probe", made, paths, "clean")


def test_a_prompt_of_its_own_is_part_of_what_an_artefact_is(made: Path, tmp_path: Path, paths: Paths) -> None:
    suite = _suite(tmp_path, {"none": {}, "bare": {"method": "none", "template": "{}."}})
    (plain,), (bare,) = (_fit(suite, name, made, paths).values() for name in ("none", "bare"))
    assert (plain["template"], bare["template"]) == ("", "{}.")


def test_without_class_renumbers_the_labels_above_it(few) -> None:
    fewer = without_class(few, "square", named=False)
    assert fewer.task.class_names == ("circle", "star", "ring")
    assert fewer.labels.tolist() == [0, 1, 2, 0, 1, 2]
    names = [fewer.task.class_names[label] for label in fewer.labels.tolist()]
    before = [few.task.class_names[label] for label in few.labels.tolist()]
    assert names == [name for name in before if name != "square"]
    assert torch.equal(fewer.images, few.images[few.labels != 1])
    assert without_class(few, "heart", named=False) is few


def test_without_class_may_keep_the_name(few) -> None:
    fewer = without_class(few, "square", named=True)
    assert fewer.task == few.task
    assert fewer.labels.tolist() == [0, 2, 3, 0, 2, 3]


def test_pairs_stay_on_disk_until_they_are_taken(made, paths, monkeypatch):
    opened, handed = [], []

    def open_and_keep(*arguments: Any) -> Any:
        opened.append(open_split(*arguments))
        return opened[-1]

    def take(victim: Any, data: Any, options: Any) -> dict[str, torch.Tensor]:
        handed.append(data.images)
        return dict(victim.staged.clip.model.state_dict())

    monkeypatch.setattr(fitting, "open_split", open_and_keep)
    monkeypatch.setattr(cleanclip, "fit", take)
    suite = _suite(paths.store.parent, {"none": {}, "cleanclip": {}})
    track = suite.tracks["main"].model_copy(update={"pairs": "captions"})
    _fit(suite.model_copy(update={"tracks": {"main": track}}), "cleanclip", made, paths)
    assert isinstance(opened[0].images, np.memmap)
    assert np.shares_memory(handed[0].numpy(), opened[0].images)
    before = opened[0].images[0].copy()
    handed[0][0] = 0
    assert (open_split(paths.data, read_manifest(paths.data, "captions"), "train").images[0] == before).all()


# Defenses joined by "+".

TECOA = {"epochs": 1, "batch_size": 32, "warmup_steps": 0, "attack_steps": 1}


def test_what_two_joined_defenses_begin_with_is_tuned_once(made, paths, monkeypatch):
    calls = []
    fit = tecoa.fit
    monkeypatch.setattr(tecoa, "fit", lambda *given: calls.append(given) or fit(*given))
    guided = {"method": "tecoa+r_adapt_m", "options": {"tecoa": TECOA, "r_adapt_m": {"cutoff": 6}}}
    probed = {"method": "tecoa+linear_probe", "options": {"tecoa": TECOA, "linear_probe": {"epochs": 1}}}
    suite = _suite(made, {"none": {}, "tecoa": {"options": TECOA}, "guided": guided, "probed": probed})
    cards = [_fit(suite, name, made, paths)["shapes.seed1"] for name in ("guided", "tecoa", "probed")]
    assert len(calls) == 1
    assert len({card["files"]["tecoa"] for card in cards}) == 1
    assert [sorted(card["files"]) for card in cards] == [["r_adapt_m", "tecoa"], ["tecoa"], ["linear_probe", "tecoa"]]
    tower, probe = cards[1]["tuned_parameters"], cards[2]["tuned_parameters"] - cards[1]["tuned_parameters"]
    assert (cards[0]["tuned_parameters"], probe) == (tower, 12 * 128 + 12)
    assert cards[0]["wall_s"] >= cards[1]["wall_s"] > 0


def test_the_guided_model_that_is_loaded_is_the_checkpoint_with_the_robust_anchor(made, paths):
    guided = {"method": "tecoa+r_adapt_m", "options": {"tecoa": TECOA, "r_adapt_m": {"cutoff": None}}}
    suite = _suite(made, {"none": {}, "guided": guided})
    _fit(suite, "guided", made, paths)
    checkpoint = load_checkpoint(made / "models" / "base" / "badnet")
    folder = paths.defended("main", "guided", "badnet") / "shapes.seed1"
    _, model = load_artefact(folder, parts_of(suite.tracks["main"], "guided", "here"), checkpoint)
    assert model is not None
    assert model.staged.clip is checkpoint.clip
    anchor, tower = load_file(folder / "r_adapt_m.safetensors")["anchor"], load_file(folder / "tecoa.safetensors")
    robust = load_tower(tower, DefendedCLIP(StagedCLIP(checkpoint.clip)), "tecoa")
    torch.testing.assert_close(anchor, white_anchor(robust.staged), atol=1e-5, rtol=0)


def test_a_joined_defense_whose_first_part_diverges_has_diverged(made, paths):
    guided = {"method": "tecoa+r_adapt_m", "options": {"tecoa": TECOA | {"learning_rate": 1e30}, "r_adapt_m": {}}}
    guided["options"]["tecoa"]["epochs"] = 3
    card = _fit(_suite(made, {"none": {}, "guided": guided}), "guided", made, paths)["shapes.seed1"]
    assert card["state"] == "diverged"
    assert "tecoa: the loss is nan" in card["reason"]
    assert card["files"] == {}


def test_other_weights_in_a_file_are_another_artefact(made, paths, tmp_path):
    weights = tmp_path / "robust.safetensors"
    suite = _suite(made, {"none": {}, "robust_weights": {"options": {"weights": str(weights)}}})
    found = []
    for seed in (1, 2):
        save_weights(build_clip("mini", seed=seed), weights)
        found.append(_fit(suite, "robust_weights", made, paths)["any.seed1"])
    assert found[0]["files"] != found[1]["files"]
    assert [card["data"].keys() for card in found] == [{str(weights)}] * 2


def test_base_to_new_tunes_on_the_base_half_and_tests_on_either(made: Path, tmp_path: Path, paths: Paths) -> None:
    tuned = {"method": "rvpt", "options": {"epochs": 1, "length": 1}, "tuning": {"classes": "base", "shots": 1}}
    suite = _suite(tmp_path, {"none": {}, "prompts": tuned, "whole": tuned | {"tuning": {"shots": 1}}})
    (card,), (whole,) = (_fit(suite, name, made, paths).values() for name in ("prompts", "whole"))
    assert (card["classes"], card["training_samples"]) == ("base", 6)
    assert (whole["classes"], whole["training_samples"]) == ("all", 12)
    track = suite.tracks["main"].model_copy(update={"splits": ("test", "test_base", "test_new")})
    suite = suite.model_copy(update={"tracks": {"main": track}})
    base = paths.models / "base"
    base.mkdir(parents=True)
    (base / "badnet").symlink_to(made / "models" / "base" / "badnet")
    every, old, new = evaluate(suite, "main", "prompts", "clean", paths)
    # One test image of each of 12 classes; those of a half are decided between six.
    assert [record.n for record in (every, old, new)] == [12, 6, 6]
    assert old.outcome is not None
    assert new.outcome is not None
    assert every.outcome is not None
    assert {*old.outcome.labels, *new.outcome.labels} == set(range(6))
    assert sorted(old.outcome.rows + new.outcome.rows) == list(every.outcome.rows)
    # The backdoor's target, the heart, is the eighth of all classes and the second of the new ones.
    assert (every.outcome.target, old.outcome.target, new.outcome.target) == (7, None, 1)


def test_several_processes_tune_and_evaluate_the_same_as_one(made: Path, tmp_path: Path) -> None:
    entries = {"none": {}, "probe": PROBE, "both": {"method": "linear_probe", "options": {"epochs": 2}}}
    outcomes = []
    for count in ("1", "2"):
        folder = tmp_path / count
        (folder / "models").mkdir(parents=True)
        (folder / "data").symlink_to(made / "data")
        (folder / "models" / "base").symlink_to(made / "models" / "base")
        _suite(folder, entries, ("shapes", "colours"))
        # In processes of their own, as from the shell: they may fork, which this one may not after other tests.
        for words in (["defend", "main"], ["evaluate", "main", "probe"]):
            command = [sys.executable, "-c", "from bench.cli import main; main()", *words]
            subprocess.run(command, cwd=folder, env=os.environ | {VARIABLE: count}, check=True, capture_output=True)
        cards = [json.loads(path.read_text()) for path in sorted(folder.glob("models/defended/**/artefact.json"))]
        records = [json.loads(path.read_text()) for path in sorted(folder.glob("results/main/probe/**/*.json"))]
        outcomes.append(([card["files"] for card in cards], [record["outcome"] for record in records]))
    assert [len(found) for found in outcomes[0]] == [5, 2]  # the undefended model is one for both datasets
    assert outcomes[0] == outcomes[1]
