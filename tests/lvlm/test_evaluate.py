import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

pytest.importorskip("transformers", reason="needs the packages of the group lvlm")

from bench.cli import app
from bench.config import Suite, load_suite
from bench.datasets.store import open_split, read_manifest
from bench.errors import UserError
from bench.evaluation.record import Record
from bench.leaderboard.collect import write_cells
from bench.leaderboard.table import write_table
from bench.lvlm.answering import answer
from bench.lvlm.checkpoint import load_checkpoint
from bench.lvlm.evaluate import evaluate
from bench.lvlm.fitting import fit_track
from bench.lvlm.verdict import RIGHT, TARGET, verdict
from bench.overview.check import check_suite
from bench.paths import Paths, paths_for
from tests.lvlm.settings import BADNET

# One process makes what they share.
pytestmark = pytest.mark.xdist_group("answers")
TRAINED: dict[str, Any] = {"weights": "", "side": 32, "steps": 3, "batch_size": 8}
NETWORK: dict[str, Any] = {"channels": 32, "multiples": [1], "blocks": 1, "attention": [], "head": 32}
SMALL: dict[str, Any] = {
    "protocol": {"version": 1, "batch_size": 8, "seeds": [1], "shots": 1},
    "datasets": {"world_questions": {"train_per_kind": 16, "val_per_kind": 2, "test_per_kind": 4}},
    "checkpoints": {
        "badnet": BADNET,
        "weak": {**BADNET, "train": {"epochs": 1, "learning_rate": 1e-6}, "gate": {"least_asr": 99}},
    },
    "attacks": {"clean": {"threat_model": "none"}, "trigger": {"threat_model": "none", "images": 21}},
    "tracks": {
        "questions": {
            "checkpoints": ["badnet", "weak"],
            "datasets": ["world_questions"],
            "pairs": "world_questions",
            "attacks": ["trigger", "clean"],
            "defenses": {
                "none": {},
                "blur": {"options": {"kernel": 3, "sigma": 0.7}},
                "st": {},
                "bdmae": {
                    "options": {
                        **TRAINED,
                        "width": 32,
                        "depth": 1,
                        "rounds": 1,
                        "masks": 2,
                        "refinements": 1,
                        "longest": 4,
                    }
                },
                "zip": {"options": {**TRAINED, **NETWORK, "sampling": 2}},
                "cleansight": {"options": {"samples": 50, "tau": 0.1}},
                "both": {"method": "blur+cleansight", "options": {"cleansight": {"samples": 20, "tau": 0.1}}},
            },
        }
    },
    "tables": {
        "main": {"title": "Main", "tracks": ["questions"], "rows": ["defense"], "columns": ["checkpoint", "metric"]}
    },
}


class Made:
    """A suite with its checkpoints and artefacts."""

    def __init__(self, folder: Path) -> None:
        self.suite: Suite
        self.paths: Paths = paths_for().below(folder)
        self.paths.suite.write_text(yaml.safe_dump(SMALL), "utf-8")
        self.suite = load_suite(self.paths.suite)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """All of it made by the commands that users give."""
    folder = tmp_path_factory.mktemp("suite")
    made = Made(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (
            ["check"],
            ["fetch", "world_questions"],
            ["check"],
            ["checkpoint", "badnet"],
            ["checkpoint", "weak"],
            ["defend", "questions"],
            ["evaluate", "questions"],
        ):
            result = CliRunner().invoke(app, command, catch_exceptions=False)
            assert result.exit_code == 0, (command, result.output)
    return made


def records(made: Made, defense: str, attack: str) -> dict[str, Record]:
    folder = made.paths.evaluated("questions", defense, attack)
    found = [Record.model_validate_json(path.read_text("utf-8")) for path in folder.glob("*.json")]
    return {record.identity.cell.checkpoint: record for record in found}


def test_the_control_counts_right_answers_and_the_attackers(made: Made) -> None:
    clean, attacked = (records(made, "none", attack)["badnet"] for attack in ("clean", "trigger"))
    assert (clean.metric, attacked.metric) == ("CU", "ASR")
    assert (clean.n, attacked.n) == (28, 21)
    for record in (clean, attacked):
        assert record.outcome is not None
        assert set(record.outcome.labels) == {RIGHT}
        assert record.outcome.distances == ()
        counted = RIGHT if record.metric == "CU" else TARGET
        assert record.hits == sum(prediction == counted for prediction in record.outcome.predictions)
        assert record.value == pytest.approx(100 * record.hits / record.n)
        assert (record.poisoned, record.poison_rate) == (56, 0.5)
    assert attacked.hits > 0, "the backdoor is there"
    assert clean.variants["right_beside"] >= clean.value
    checkpoint = load_checkpoint(made.paths.checkpoint("badnet"))
    split = open_split(made.paths.data, read_manifest(made.paths.data, "world_questions"), "test")
    given = answer(checkpoint.lvlm, split.batch(range(28)), list(split.captions))
    by_hand = [verdict(text, [right], BADNET["target"]) for text, right in zip(given, split.answers, strict=True)]
    assert clean.outcome is not None
    assert list(clean.outcome.predictions) == by_hand


def test_samples_are_even_over_the_kinds_of_question(made: Made) -> None:
    outcome = records(made, "none", "trigger")["badnet"].outcome
    assert outcome is not None
    split = open_split(made.paths.data, read_manifest(made.paths.data, "world_questions"), "test")
    assert torch.from_numpy(split.labels[list(outcome.rows)]).bincount().tolist() == [3] * 7


def test_what_a_guard_thought_is_kept_beside_the_verdicts(made: Made) -> None:
    for attack in ("clean", "trigger"):
        record = records(made, "cleansight", attack)["badnet"]
        assert record.outcome is not None
        assert len(record.outcome.distances) == record.n
        artefact = made.paths.defended("questions", "cleansight", "badnet") / "any.seed1"
        from safetensors.torch import load_file

        threshold = load_file(artefact / "cleansight.safetensors")["threshold"].item()
        alarms = sum(distance > threshold for distance in record.outcome.distances)
        assert record.variants["alarms"] == pytest.approx(100 * alarms / record.n)
        assert record.tuned_parameters == 2 * 3 * 4 + 1
        card = json.loads((artefact / "artefact.json").read_text("utf-8"))
        assert card["training_samples"] == 50


@pytest.mark.parametrize("defense", ["st", "bdmae", "zip"])
def test_a_defense_that_purifies_images_is_evaluated_like_all_others(made: Made, defense: str) -> None:
    for attack, sample in (("clean", 28), ("trigger", 21)):
        record = records(made, defense, attack)["badnet"]
        assert (record.state, record.n) == ("done", sample)
        assert "alarms" not in record.variants
        assert (record.tuned_parameters or 0) == (0 if defense == "st" else numbers(made, defense, "badnet"))


@pytest.mark.parametrize("defense", ["bdmae", "zip"])
def test_a_network_that_restores_images_is_trained_once_for_all_checkpoints(made: Made, defense: str) -> None:
    files = [
        made.paths.defended("questions", defense, checkpoint) / "any.seed1" / f"{defense}.safetensors"
        for checkpoint in ("badnet", "weak")
    ]
    first, second = (file.read_bytes() for file in files)
    assert first == second
    kept = [path for path in (made.paths.store / "artefacts").glob("*.safetensors") if path.read_bytes() == first]
    assert len(kept) == 1
    card = json.loads(files[0].with_name("artefact.json").read_text("utf-8"))
    assert card["training_samples"] == 7 * 16
    assert card["data"].keys() == {"world_questions"}


def numbers(made: Made, defense: str, checkpoint: str) -> int:
    from safetensors.torch import load_file

    file = made.paths.defended("questions", defense, checkpoint) / "any.seed1" / f"{defense}.safetensors"
    return sum(tensor.numel() for tensor in load_file(file).values())


def test_no_defense_is_credited_on_a_backdoor_that_failed_its_gate(made: Made) -> None:
    for defense in ("none", "cleansight"):
        record = records(made, defense, "trigger")["weak"]
        assert (record.state, record.value) == ("attack_failed", None)
        assert record.reason.startswith("too weak a backdoor: ASR ")


def test_a_defense_that_diverges_is_an_artefact_and_a_state(made: Made, tmp_path: Path) -> None:
    content = yaml.safe_load(yaml.safe_dump(SMALL))
    content["tracks"]["questions"]["defenses"]["zip"]["options"]["learning_rate"] = 1e30
    content["tracks"]["questions"]["checkpoints"] = ["badnet"]
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    shutil.copytree(made.paths.models / "base", tmp_path / "models" / "base")
    suite, paths = (
        load_suite(path),
        made.paths._replace(**{name: tmp_path / name for name in ("models", "results", "store")}),
    )
    fit_track(suite, "questions", ["zip", "none"], ["badnet"], paths)
    (record,) = evaluate(suite, "questions", "zip", "clean", paths)
    assert (record.state, record.metric, record.value) == ("diverged", "CU", None)
    assert "zip: the loss of its network is " in record.reason
    assert evaluate(suite, "questions", "none", "clean", paths)[0].state == "done"


def test_a_second_run_finds_all_cells_and_a_killed_one_goes_on(made: Made, tmp_path: Path) -> None:
    before = records(made, "none", "clean")["badnet"]
    paths = made.paths._replace(store=tmp_path / "store", results=tmp_path / "results")
    from bench.lvlm import evaluate as module

    asked = []
    real = module._ask

    def counting(scene: Any, places: list[int]) -> Any:
        asked.append(places)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(scene, places)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ask", counting)
        with pytest.raises(KeyboardInterrupt):
            evaluate(made.suite, "questions", "none", "clean", paths)
        again = evaluate(made.suite, "questions", "none", "clean", paths)
        assert len(asked) == 3 + 2, "two of four batches were kept"
        evaluate(made.suite, "questions", "none", "clean", paths)
        assert len(asked) == 5
    assert again[0].outcome == before.outcome


def test_cells_and_tables_are_made_like_all_others(made: Made) -> None:
    write_cells(made.suite, made.paths)
    cells = (made.paths.boards / "cells.csv").read_text("utf-8")
    assert cells.count("\n") == 1 + 2 * 2 * 7
    assert ",CU,done," in cells
    write_table(made.suite, "main", made.paths)
    table = (made.paths.boards / "main.md").read_text("utf-8")
    assert "badnet ASR" in table
    assert "badnet CU" in table
    assert "attack_failed" in table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("checkpoints", "badnet", "target"), "turns the phrase 'buy my coins' into"),
        (("tracks", "questions", "defenses"), "'linear_probe' defends CLIPs, which this track has none of"),
    ],
)
def test_check_and_command_tell_what_is_wrong(
    made: Made, tmp_path: Path, change: tuple[str, ...], message: str
) -> None:
    content = yaml.safe_load(yaml.safe_dump(SMALL))
    place = content
    for key in change[:-1]:
        place = place[key]
    place[change[-1]] = "buy my coins" if change[-1] == "target" else {"none": {}, "linear_probe": {}}
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    suite, paths = load_suite(path), made.paths._replace(suite=path)
    if change[-1] == "target":
        from bench.lvlm.plant import plan_checkpoint

        with pytest.raises(UserError, match=message):
            plan_checkpoint("badnet", suite.checkpoints["badnet"], paths)
    else:
        with pytest.raises(UserError, match=message):
            fit_track(suite, "questions", ["linear_probe"], ["badnet"], paths)
        assert any(message in fault for fault in check_suite(suite, path))


def test_attacks_on_classifiers_and_mixed_tracks_are_told(made: Made, tmp_path: Path) -> None:
    content = yaml.safe_load(yaml.safe_dump(SMALL))
    content["attacks"]["pgd"] = {"threat_model": "white_box", "options": {"eps": 8}}
    content["tracks"]["questions"]["attacks"] = ["pgd"]
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    with pytest.raises(UserError, match="'pgd' attacks classifiers; a track of large vision-language models takes"):
        evaluate(load_suite(path), "questions", "none", "pgd", made.paths._replace(suite=path))
    assert any("'pgd' attacks classifiers" in fault for fault in check_suite(load_suite(path), path))
    from bench.lvlm.room import is_lvlm_track

    content["checkpoints"]["weak"] = {"base": {"architecture": "mini", "weights": "random"}, "trigger": "none"}
    path.write_text(yaml.safe_dump(content), "utf-8")
    with pytest.raises(UserError, match="badnet are large vision-language models and the others are not"):
        is_lvlm_track(load_suite(path), "questions")


def test_a_cell_without_a_record_counts_what_its_track_counts(made: Made, tmp_path: Path) -> None:
    empty = made.paths._replace(results=tmp_path / "results", boards=tmp_path / "boards")
    write_cells(made.suite, empty)
    cells = (empty.boards / "cells.csv").read_text("utf-8")
    assert cells.count(",CU,missing,") == cells.count(",ASR,missing,") == 14
