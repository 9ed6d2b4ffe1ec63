"""Estimates: by hand with fixed speeds, and once with this machine's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench.attacks import autoattack, clean, pgd
from bench.clip.defended import Task
from bench.config import DefenseSpec, Suite, Track
from bench.datasets import captions, shapes
from bench.datasets.store import build
from bench.defenses.artefact import Part, parts_of
from bench.overview.cells import cell_states
from bench.overview.estimate import estimate, in_words, show_estimate
from bench.overview.meter import Passes, Stopwatch, Tuning
from bench.overview.work import Work, work_of
from bench.paths import Paths

FORWARD, GRADIENT, PAIR = 0.001, 0.003, 0.01
TUNING = {"cleanclip": Tuning(0.0, 0.02), "rvpt": Tuning(0.5, 0.002)}


class Fixed:
    """Speeds that do not depend on the machine."""

    def passes(self, architecture: str, batch_size: int) -> Passes:
        assert (architecture, batch_size) == ("mini", 8)
        return Passes(FORWARD, GRADIENT)

    def pair_s(self, architecture: str, batch_size: int) -> float:
        assert (architecture, batch_size) == ("mini", 32)
        return PAIR

    def tuning(self, architecture: str, part: Part, task: Task) -> Tuning:
        del architecture, task
        return TUNING[part.name]

    def question_s(self, architecture: str) -> float:
        raise AssertionError(f"this suite has no large model, and none is called {architecture}")

    def peak_memory_mb(self) -> float:
        return 100.0


@pytest.fixture
def fetched(paths: Paths, suite: Suite) -> None:
    for name, module in (("shapes", shapes), ("captions", captions)):
        build(name, module.Options(**suite.datasets[name]), module.fetch, paths.data)


@pytest.mark.usefixtures("fetched")
def test_totals_are_those_reckoned_by_hand(suite: Suite, paths: Paths) -> None:
    result = estimate(suite, paths, Fixed(), survivors=0.25)
    seconds = {(line.stage, line.name): line.seconds for line in result.lines}
    images, classes, shots = 24, 12, 2
    # 2 defenses; the evaluator's two passes beside the attack's; 9 targets for APGD-T and for FAB-T.
    auto = 10 * ((2 + 0.25 * 5000) * FORWARD + (100 + 0.25 * 2 * 9 * 100) * GRADIENT)
    by_hand = {
        ("checkpoint", "clean"): 0,
        ("checkpoint", "badnet"): 64 * 3 * PAIR,
        ("defend_backdoor", "none"): 0,
        ("defend_backdoor", "cleanclip"): 50 * 2 * 0.02,
        ("defend_adversarial", "none"): 0,
        ("defend_adversarial", "rvpt"): shots * classes * (0.5 + 4 * 0.002),
        ("evaluate_backdoor", "clean"): 2 * images * 2 * FORWARD,
        ("evaluate_backdoor", "trigger"): 2 * images * 2 * FORWARD,
        ("evaluate_adversarial", "clean"): 2 * images * 2 * FORWARD,
        ("evaluate_adversarial", "pgd"): 2 * 12 * (2 * FORWARD + 5 * GRADIENT),
        ("evaluate_adversarial", "autoattack"): 2 * auto,
    }
    assert seconds == pytest.approx(by_hand)
    assert result.seconds == pytest.approx(sum(by_hand.values()))


@pytest.mark.usefixtures("fetched")
def test_what_is_there_already_costs_nothing(suite: Suite, paths: Paths, write_record: Callable[..., Path]) -> None:
    for state in cell_states(suite, paths):
        if state.cell.attack == "pgd":
            write_record(suite, state.track, state.cell, "failed" if state.cell.defense == "rvpt" else "done")
    for card in (paths.checkpoint("badnet") / "checkpoint.json", paths.checkpoint("clean") / "checkpoint.json"):
        card.parent.mkdir(parents=True)
        card.write_text(json.dumps({"gate": None}))
    card = paths.defended("backdoor", "cleanclip", "badnet") / "any.seed1" / "artefact.json"
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"state": "done"}))
    lines = {(line.stage, line.name): line for line in estimate(suite, paths, Fixed()).lines}
    for key in (("evaluate_adversarial", "pgd"), ("checkpoint", "badnet"), ("defend_backdoor", "cleanclip")):
        assert (lines[key].left, lines[key].seconds) == (0, 0)
    assert lines["evaluate_adversarial", "pgd"].done == 2
    assert lines["evaluate_adversarial", "clean"].seconds > 0


@pytest.mark.usefixtures("fetched")
def test_seeds_and_datasets_multiply_but_not_for_the_control_and_not_for_captions(
    content: dict, read_suite: Callable[[dict], Suite], paths: Paths
) -> None:
    once = {line[:2]: line for line in estimate(read_suite(content), paths, Fixed()).lines}
    content["protocol"]["seeds"] = [1, 2, 3]
    content["tracks"]["adversarial"]["defenses"]["both"] = {
        "method": "rvpt+cleanclip",
        "options": {"rvpt": {"epochs": 4}, "cleanclip": {"pairs": 9}},
    }
    content["tracks"]["adversarial"]["pairs"] = "captions"
    thrice = {line[:2]: line for line in estimate(read_suite(content), paths, Fixed()).lines}
    for key in (("defend_backdoor", "cleanclip"), ("defend_adversarial", "rvpt")):
        assert thrice[key].seconds == pytest.approx(3 * once[key].seconds)
    joined = thrice["defend_adversarial", "both"].seconds
    assert joined == pytest.approx(thrice["defend_adversarial", "rvpt"].seconds + 3 * 9 * 10 * 0.02)
    # One cell of the control, three of rvpt, three of the joined defense.
    assert thrice["evaluate_adversarial", "pgd"].left == 7


def test_without_data_sizes_are_assumed_and_said(suite: Suite, paths: Paths, page: Console) -> None:
    result = estimate(suite, paths, Fixed())
    seconds = {(line.stage, line.name): line.seconds for line in result.lines}
    assert seconds["checkpoint", "badnet"] == pytest.approx(64 * 3 * PAIR)  # from the dataset's options
    assert seconds["evaluate_backdoor", "clean"] == pytest.approx(2 * 1000 * 2 * FORWARD)
    show_estimate(result, page)
    text = page.file.getvalue()
    assert "This is an estimate" in text
    assert "'shapes' is not fetched; 10 classes" in text
    assert "30% of the images" in text


@pytest.mark.usefixtures("fetched")
def test_the_start_of_stages_is_left_out_and_said(suite: Suite, paths: Paths) -> None:
    # 2 datasets, 2 checkpoints, 2 + 2 defenses and a whole track, the attacks, 2 + 6 evaluations and a whole track,
    # collect, 2 tables
    stages = 2 + 2 + 5 + 1 + 9 + 1 + 2
    said = [text for text in estimate(suite, paths, Fixed()).assumptions if "start of each stage" in text]
    assert len(said) == 1
    assert said[0].endswith(f"for all {stages} stages of dvc.yaml that is 1 min 39 s.")


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("stages", [None, {"other": {"foreach": "${tracks.other.defenses}"}}])
def test_without_a_pipeline_of_the_suite_no_stages_are_counted(suite: Suite, paths: Paths, stages: dict | None) -> None:
    pipeline = Path("dvc.yaml")
    pipeline.unlink()
    if stages is not None:
        pipeline.write_text(json.dumps({"stages": stages}))
    assert not any("start of each stage" in text for text in estimate(suite, paths, Fixed()).assumptions)


def test_passes_per_image() -> None:
    assert work_of("clean", clean, clean.Options(), 10, 0.3) == Work(2, 0)
    assert work_of("pgd", pgd, pgd.Options(steps=7), 10, 0.3) == Work(2, 7)
    assert work_of("autoattack", autoattack, autoattack.Options(), 3, 0.5) == Work(2502, 300)
    assert work_of("autoattack", autoattack, autoattack.Options(), 1000, 0.0) == Work(2, 100)
    assert work_of("other", autoattack, autoattack.Options(), 10, 0.3) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (3700, "1 h 01 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_this_machine_can_be_measured_with_random_weights() -> None:
    meter, task = Stopwatch(), Task(("heart", "star"), "a photo of a {}.")
    passes = meter.passes("mini", 4)
    assert passes.forward_s > 0
    assert passes.gradient_s > 0
    assert meter.pair_s("mini", 4) > 0
    small = DefenseSpec(options={"batch_size": 4})
    track = Track(defenses={"rvpt": small, "cleanclip": small}, checkpoints=(), datasets=(), attacks=())
    for name in track.defenses:
        (part,) = parts_of(track, name, "here")
        tuning = meter.tuning("mini", part, task)
        assert tuning.once_s + tuning.seen_s > 0
    assert meter.peak_memory_mb() > 10
