"""What a suite would take, against figures reckoned by hand."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from rich.console import Console

from bench.clip.defended import Task
from bench.config import Suite
from bench.defenses.artefact import Part
from bench.overview.assumed import REFERENCE, Assumed, size_of
from bench.overview.meter import Passes
from bench.overview.plan import count_stages, plan_suite, show_plan
from bench.paths import Paths

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
