"""What the harness costs next to plain calls of torchattacks and pyautoattack: the same model and images, in one run.

``make bench`` prints the ratios: the harness (clean pass, masking checks, checked attack, verdict, counting) over the
plain library call, on as many images as a cell of the default suite has; and what is saved where images that are wrong
already are not attacked, and where text features are computed once. Each round times both sides, one after the other,
in processor time; the ratio is the median over the rounds, and may not pass its bound.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyautoattack
import pytest
import torch
import torchattacks
from torch import Tensor, nn

from bench.attacks import autoattack, pgd
from bench.attacks.contract import Knowledge
from bench.clip.classifier import Classifier, predict, scaled_cosine, sentences, zero_shot
from bench.clip.model import Base, load
from bench.clip.staged import StagedCLIP
from bench.config import Protocol, Suite, load_suite
from bench.datasets import world
from bench.evaluation.adversary import Attacker
from bench.evaluation.compute import Scene, compute
from bench.evaluation.record import Cell, Identity

pytestmark = pytest.mark.benchmark(timer=time.process_time)
ROUNDS = 3


class Task(NamedTuple):
    """A model, and images with their classes."""

    model: nn.Module
    images: Tensor
    labels: Tensor

    def first(self, count: int | None) -> "Task":
        """The same with ``count`` images."""
        return self._replace(images=self.images[:count], labels=self.labels[:count])


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite(Path(__file__).parents[2] / "benchmark.yaml")


@pytest.fixture(scope="module")
def task() -> Task:
    """The shipped mini CLIP on images that it classifies correctly, so that both sides attack the same ones."""
    staged = StagedCLIP(load(Base(architecture="mini", weights="shipped")))
    model = zero_shot(staged, world.SHAPES, "a photo of a {}.")
    pairs = world.captioned(192, seed=901)
    images = torch.from_numpy(pairs.images).permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor([scene.shape for scene in pairs.scenes])
    right = predict(model, images) == labels
    return Task(model, images[right], labels[right])


def scene_for(task: Task, attacker: Attacker, batch_size: int) -> Scene:
    cell = Cell(
        checkpoint="clean", defense="none", dataset="shapes", split="test", attack=attacker.name,
        threat_model="white_box", seed=1,
    )  # fmt: skip
    identity = Identity(
        cell=cell, checkpoint="", artefact="", manifest="", attack="", attack_options={}, images=None,
        protocol=Protocol(version=1, batch_size=batch_size, seeds=(1,), shots=1),
    )  # fmt: skip
    rows = list(range(len(task.labels)))
    return Scene(identity, attacker, task.model, Knowledge(), task.images, task.labels, rows, None, 0)


def measure(benchmark, capsys, name: str, harness: Callable[[], object], plain: Callable[[], object]) -> float:
    """Time both sides in turn, and print, keep and return the median ratio."""
    seconds = list[float]()

    def time_plain() -> None:
        start = time.process_time()
        plain()
        seconds.append(time.process_time() - start)

    benchmark.pedantic(harness, setup=time_plain, rounds=ROUNDS)
    ratios = [ours / theirs for ours, theirs in zip(benchmark.stats.stats.data, seconds, strict=True)]
    ratio = statistics.median(ratios)
    benchmark.extra_info["ratio"] = ratio
    with capsys.disabled():
        each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"\n{name} = {ratio:.3f} (rounds: {each}; the latter: {statistics.median(seconds):.2f} s)")
    return ratio


def test_pgd_over_torchattacks(benchmark, capsys, suite, task) -> None:
    options = pgd.Options(**suite.attacks["pgd"].options)
    assert options.steps == 100
    task = task.first(suite.attacks["pgd"].images)
    scene = scene_for(task, Attacker("pgd", pgd, options), suite.protocol.batch_size)
    ratio = measure(
        benchmark,
        capsys,
        f"PGD-100 on {len(task.labels)} images: harness / torchattacks",
        lambda: compute(scene, {}, lambda _: None),
        lambda: torchattacks_pgd(task, options, suite.protocol.batch_size),
    )
    assert ratio <= 1.05


def torchattacks_pgd(task: Task, options: pgd.Options, batch_size: int) -> None:
    plain = torchattacks.PGD(task.model, eps=options.eps / 255, alpha=options.step / 255, steps=options.steps)
    for images, labels in zip(task.images.split(batch_size), task.labels.split(batch_size), strict=True):
        plain(images, labels)


def test_autoattack_over_pyautoattack(benchmark, capsys, suite, task) -> None:
    options = autoattack.Options(**suite.attacks["autoattack"].options)
    task, batch_size = task.first(suite.attacks["autoattack"].images), suite.protocol.batch_size
    scene = scene_for(task, Attacker("autoattack", autoattack, options), batch_size)
    plain = pyautoattack.AutoAttack(task.model, eps=options.eps / 255, seed=0)
    ratio = measure(
        benchmark,
        capsys,
        f"AutoAttack on {len(task.labels)} images: harness / pyautoattack",
        lambda: compute(scene, {}, lambda _: None),
        lambda: plain.run_standard_evaluation(task.images, task.labels, batch_size=batch_size),
    )
    assert ratio <= 1.1


def test_pgd_on_survivors_only_over_torchattacks_on_all(benchmark, capsys, suite, task) -> None:
    """On noisy images, of which the model gets a part wrong; the plain call attacks those too."""
    noise = torch.randn(task.images.shape, generator=torch.Generator().manual_seed(0))
    task = task._replace(images=(task.images + 0.25 * noise).clamp(0, 1)).first(64)
    options, right = pgd.Options(steps=20), int((predict(task.model, task.images) == task.labels).sum())
    assert 0 < right < len(task.labels)
    scene = scene_for(task, Attacker("pgd", pgd, options), len(task.labels))
    ratio = measure(
        benchmark,
        capsys,
        f"PGD-20 on the {right} of {len(task.labels)} images that are right: harness / torchattacks on all",
        lambda: compute(scene, {}, lambda _: None),
        lambda: torchattacks_pgd(task, options, len(task.labels)),
    )
    assert ratio < 1


def test_pgd_with_text_features_computed_once_over_each_step(benchmark, capsys, task) -> None:
    model, images, labels = task.first(32)
    staged = StagedCLIP(load(Base(architecture="mini", weights="shipped")))
    prompts = sentences(world.SHAPES, "a photo of a {}.")

    def anew(images: Tensor) -> Tensor:
        return scaled_cosine(staged, staged.image(images), staged.features_of(prompts))

    slow = Classifier(anew, len(world.SHAPES), [staged.clip.model])
    options, seeds = pgd.Options(eps=8, steps=10), range(len(images))

    def attack(classifier: nn.Module) -> None:
        pgd.attack(classifier, images, labels, options=options, seeds=seeds, knowledge=Knowledge())

    ratio = measure(
        benchmark,
        capsys,
        "PGD-10: text features computed once / in every step",
        lambda: attack(model),
        lambda: attack(slow),
    )
    assert ratio < 1
