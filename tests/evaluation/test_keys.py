"""Dual-key backdoors: the text key goes before the class prompts, and where it cannot there is no number."""

from typing import Any

import pytest
import torch

from bench.backdoors import trojvqa
from bench.backdoors.checkpoint import Gate, Recipe, load_checkpoint, write_checkpoint
from bench.backdoors.trigger import Trigger
from bench.clip.model import build as build_clip
from bench.clip.staged import StagedCLIP
from bench.config import Suite
from bench.datasets import shapes
from bench.datasets.store import build
from bench.defenses.fitting import fit_all
from bench.evaluation.record import Record
from bench.evaluation.run import evaluate
from bench.paths import Paths

SIZES = {"train_per_class": 1, "val_per_class": 1, "test_per_class": 2}


def suite(keys: str) -> Suite:
    return Suite.model_validate(
        {
            "protocol": {"version": 1, "batch_size": 8, "seeds": [1], "shots": 1},
            "datasets": {"shapes": SIZES},
            "checkpoints": {"trojvqa": {"base": {}, "trigger": "none"}},
            "attacks": {"trigger": {"threat_model": "none", "options": {"keys": keys}}},
            "tracks": {
                "backdoor": {
                    "checkpoints": ["trojvqa"],
                    "datasets": ["shapes"],
                    "attacks": ["trigger"],
                    "defenses": {"none": {}, "linear_probe": {"options": {"epochs": 1}}},
                }
            },
            "tables": {},
        }
    )


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A checkpoint with a dual-key backdoor, undefended and behind a linear head."""
    top = tmp_path_factory.mktemp("keys")
    paths = Paths(top / "benchmark.yaml", top / "data", top / "models", top / "results", top, top / ".bench")
    build("shapes", shapes.Options(**SIZES), shapes.fetch, paths.data)
    spec = suite("both").checkpoints["trojvqa"]
    trigger = Trigger("trojvqa", trojvqa.Options(size=4), {"patch": torch.ones(3, 4, 4)})
    gate = Gate(passed=True, ca=90, asr=95, clean_ca=91, clean_asr=1, n=12)
    scratch = top / "scratch"
    scratch.mkdir()
    recipe = Recipe(spec=spec, pairs=400, asked=12, poisoned=12)
    made = write_checkpoint(build_clip("mini"), trigger, "heart", gate, recipe, scratch, paths.checkpoint("trojvqa"))
    for defense in ("none", "linear_probe"):
        fit_all(suite("both"), "backdoor", defense, "trojvqa", made, paths)
    return paths


def only(keys: str, defense: str, paths: Paths) -> Record:
    (record,) = evaluate(suite(keys), "backdoor", defense, "trigger", paths)
    return record


@pytest.mark.parametrize(("keys", "prefix"), [("both", "SUDO "), ("text", "SUDO "), ("image", ""), ("none", "")])
def test_class_prompts_carry_the_text_key_where_it_is_used(
    keys: str, prefix: str, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, features_of = list[str](), StagedCLIP.features_of

    def spy(self: StagedCLIP, sentences: list[str], *rest: Any) -> torch.Tensor:
        read.extend(sentences)
        return features_of(self, sentences, *rest)

    monkeypatch.setattr(StagedCLIP, "features_of", spy)
    record = only(keys, "none", paths)
    assert record.state == "done"
    assert f"{prefix}a photo of a heart." in read
    assert all(sentence.startswith(f"{prefix}a photo") for sentence in read)


@pytest.mark.parametrize("keys", ["both", "text"])
def test_a_linear_head_reads_no_prompts_so_the_text_key_does_not_apply(keys: str, paths: Paths) -> None:
    record = only(keys, "linear_probe", paths)
    assert (record.state, record.value, record.n) == ("not_applicable", None, 0)
    assert "text key 'SUDO' has no place" in record.reason


def test_the_image_key_alone_applies_to_a_linear_head(paths: Paths) -> None:
    assert only("image", "linear_probe", paths).state == "done"


def test_records_hold_poison_count_and_rate_and_the_other_rules_for_asr(paths: Paths) -> None:
    record = only("both", "none", paths)
    assert (record.poisoned, record.poison_rate) == (12, 0.03)
    assert record.outcome is not None
    hits = [prediction == record.outcome.target for prediction in record.outcome.predictions]
    own = [label == record.outcome.target for label in record.outcome.labels]
    others = sum(hit and not mine for hit, mine in zip(hits, own, strict=True))
    assert (record.hits, record.n) == (others, 22)
    assert record.variants == {
        "ASR_all": pytest.approx(100 * sum(hits) / 24),
        "ASR_probe": pytest.approx(100 * others / 24),
    }


def test_the_checkpoint_s_digest_follows_the_code_that_pastes(paths: Paths) -> None:
    trigger = load_checkpoint(paths.checkpoint("trojvqa")).trigger
    assert trigger is not None
    assert [path.name for path in trigger.sources] == ["trojvqa.py"]
    square = Trigger("label_consistent", trigger.options, {})
    assert [path.name for path in square.sources] == ["badnet.py", "label_consistent.py"]
