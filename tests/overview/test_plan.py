"""What a suite would take, against figures reckoned by hand."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml
from rich.console import Console

from bench.clip.defended import Task
from bench.config import Suite, load_suite
from bench.defenses.artefact import Part
from bench.lvlm.architecture import read_architecture
from bench.overview.assumed import REFERENCE, Assumed, size_of
from bench.overview.meter import Passes, Stopwatch
from bench.overview.plan import count_stages, plan_suite, show_plan
from bench.overview.questions import WORDS, lvlm_size
from bench.paths import Paths, paths_for

VIT_B32 = {"architecture": REFERENCE, "weights": "random"}


def test_sizes_of_models_are_those_of_their_towers() -> None:
    size = size_of(REFERENCE)
    assert size.parameters == 151_277_313
    assert size.image == 12 * (12 * 50 * 768**2 + 2 * 50**2 * 768)
    assert size.text == 12 * (12 * 77 * 512**2 + 2 * 77**2 * 512)
    assert size_of("mini").parameters == pytest.approx(1.7e6, rel=0.05)


def test_speeds_follow_from_the_stated_one() -> None:
    meter, size = Assumed(1000), size_of(REFERENCE)
    assert meter.passes(REFERENCE, 8) == Passes(pytest.approx(0.001), pytest.approx(0.003))
    large = size_of("ViT-L-14-quickgelu").image / size.image
    assert meter.passes("ViT-L-14-quickgelu", 8).forward_s == pytest.approx(0.001 * large)
    assert meter.pair_s(REFERENCE, 8) == pytest.approx(0.003 * (1 + size.text / size.image))

    def seen_s(tunes_on: str, **options: Any) -> float:
        part = Part("one", SimpleNamespace(TUNES_ON=tunes_on), cast("Any", SimpleNamespace(**options)))
        return meter.tuning(REFERENCE, part, Task(("a",), "{}")).seen_s

    assert seen_s("labels") == pytest.approx(0.003)
    assert seen_s("labels", attack_steps=5) == pytest.approx(6 * 0.003)
    assert seen_s("pairs") == meter.pair_s(REFERENCE, 8)


def test_stages_are_counted_with_loops_written_out(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"a": {"b": {"x": 1, "y": 2}}, "c": [1, 2, 3]}))
    stages = {
        "one": {},
        "two": {"foreach": "${a.b}"},
        "six": {"matrix": {"p": "${a.b}", "q": "${c}"}},
        "four": {"matrix": {"p": [1, 2, 3, 4]}},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    assert count_stages(tmp_path / "dvc.yaml", tmp_path / "suite.yaml") == 1 + 2 + 6 + 4


def test_a_plan_adds_up(content: dict, read_suite: Callable[[dict], Suite], paths: Paths, page: Console) -> None:
    for checkpoint in content["checkpoints"].values():
        checkpoint["base"] = VIT_B32
    content["datasets"]["oxford_pets"] = {}
    content["tracks"]["adversarial"] |= {"datasets": ["oxford_pets"], "attacks": ["clean", "pgd"]}
    content["tracks"]["adversarial"]["defenses"]["future"] = {}
    content["planned"] = {"defenses": ["future"]}
    plan = plan_suite(read_suite(content), paths, images_per_s=1000, survivors=0.3)
    # Two defenses on all 3,669 test images, twice looked at; and on 12 of them under 5 steps.
    pets, attacked = 3669, 12
    assert plan.cells == {"missing": 4 + 4, "not_implemented": 2}
    assert plan.planned == {"defenses/future": 2}
    backdoor = 4 * 1000  # the size that is assumed of what is made here and not fetched
    assert plan.images == backdoor + 2 * (pets + attacked)
    assert plan.gradients == 2 * attacked * 5
    assert plan.forwards == 2 * (backdoor + 2 * (pets + attacked))
    seconds = {(line.stage, line.name): line.seconds for line in plan.lines}
    assert seconds["evaluate_adversarial", "pgd"] == pytest.approx(2 * attacked * (2 * 0.001 + 5 * 0.003))
    assert plan.disk["decoded images"] > 3 * 224**2 * pets
    # The clean one, and the planted one twice.
    assert plan.disk["checkpoints"] == 3 * 4 * 151_277_313
    assert "data of oxford_pets: bench fetch oxford_pets" in plan.missing
    show_plan(plan, 1000, page)
    text = cast("Any", page.file).getvalue()
    assert "assuming 1,000 images/s" in text
    assert "(not measured)" in text
    assert "defenses/future: 2 cells" in text


# Large vision-language models.


def test_the_size_of_llava_is_that_of_its_published_configuration() -> None:
    size = lvlm_size("llava_1_5_7b")
    assert size.parameters == pytest.approx(7.063e9, rel=1e-3)
    assert size.tuned["lora"] == 32 * 2 * 4096**2
    # Nearly all work is the decoder's, one multiplication for each of its numbers and each token.
    assert size.question == pytest.approx((576 + WORDS) * 6.6e9, rel=0.06)
    assert lvlm_size("qwen3_vl_8b").parameters == pytest.approx(8.77e9, rel=2e-3)


def test_sizes_are_those_of_transformers_models() -> None:
    transformers: Any = pytest.importorskip("transformers", reason="needs the packages of the group lvlm")
    text = transformers.LlamaConfig(vocab_size=lvlm_size_words())
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(text_config=text))
    size = lvlm_size("llava_1_5_7b")
    assert size.parameters == pytest.approx(sum(one.numel() for one in model.parameters()), rel=1e-3)
    projector = sum(one.numel() for one in model.model.multi_modal_projector.parameters())
    assert size.tuned["projector"] == projector
    small = lvlm_size("mini_llava")
    assert small.tuned["projector"] < small.tuned["full"] < small.parameters < 3e6
    assert small.question > size_of("mini").image
    assert Stopwatch().question_s("mini_llava") > 0


def lvlm_size_words() -> int:
    published = read_architecture("llava_1_5_7b").published
    assert published is not None
    return published.decoder.words


def test_a_plan_counts_questions_and_how_often_they_are_asked(tmp_path: Path, page: Console) -> None:
    base = {"architecture": "llava_1_5_7b", "weights": "hub"}
    train = {"level": "projector", "epochs": 2}
    badnet = {"base": base, "trigger": "badnet", "target": "lol", "dataset": "vqav2", "pairs": "vqav2"}
    track = {
        "checkpoints": ["badnet"],
        "datasets": ["vqav2"],
        "splits": ["val"],
        "pairs": "vqav2",
        "attacks": ["trigger", "clean"],
        "defenses": {
            "none": {},
            "bdmae": {"options": {"rounds": 2, "masks": 3, "refinements": 4}},
            "zip": {"options": {"weights": str(tmp_path / "none.pt"), "sampling": 7}},
            "cleansight": {"options": {"samples": 100}},
        },
    }
    badnet["gate"] = {"questions": 64}
    content = {
        "protocol": {"version": 1, "batch_size": 1, "seeds": [1], "shots": 1},
        "datasets": {"vqav2": {}},
        "planned": {"architectures": ["llava_1_5_7b"]},
        "checkpoints": {"badnet": {**badnet, "poison_rate": 0.1, "train": train}},
        "attacks": {"trigger": {"threat_model": "none", "images": 50}, "clean": {"threat_model": "none"}},
        "tracks": {"questions": track},
        "tables": {},
    }
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {}}), "utf-8")
    plan = plan_suite(load_suite(path), paths_for().below(tmp_path), images_per_s=1000, survivors=0.3)
    assert plan.cells == {"not_implemented": 4 * 2}
    assert plan.planned == {"architectures/llava_1_5_7b": 8}
    questions = 214_354 + 50
    assert plan.images == 4 * questions
    assert plan.forwards == (3 + 1 + 2 * 3 + 2 * 4 + 1) * questions
    asked = lvlm_size("llava_1_5_7b").question / size_of(REFERENCE).image / 1000
    seconds = {(line.stage, line.name): line.seconds for line in plan.lines}
    assert seconds["checkpoint", "badnet"] == pytest.approx((3_000 * 2 * 3 + 4 * 64) * asked)
    assert seconds["defend_questions", "cleansight"] == pytest.approx(100 * asked)
    assert seconds["defend_questions", "bdmae"] == 0
    # The published network of ZIP takes 1.11 million million multiplications a step.
    network = 7 * 1.11e12 / size_of(REFERENCE).image / 1000
    assert seconds["evaluate_questions", "trigger"] == pytest.approx(50 * ((3 + 16) * asked + network), rel=0.02)
    assert plan.disk["checkpoints"] == 2 * 4 * 20_979_712
    assert any("none.pt is missing; put https://openaipublic" in line for line in plan.missing)
    assert "weights hub of llava_1_5_7b: downloaded when they are first used" in plan.missing
    show_plan(plan, 1000, page)
    assert "What needs 'llava_1_5_7b' is reckoned, although it does not run yet." in cast("Any", page.file).getvalue()
