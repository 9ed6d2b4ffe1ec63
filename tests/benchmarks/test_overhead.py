"""What the harness costs next to plain calls of torchattacks and pyautoattack: the same model and images, in one run.

``make bench`` prints the ratios: the harness (clean pass, masking checks, checked attack, verdict, counting) over the
plain library call, and what computing text features once saves. Each round times both sides, one after the other, in
processor time, which other processes on the machine do not lengthen; the ratio is that of the fastest rounds, and may
not pass its bound.
"""

import time
from collections.abc import Callable

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
from bench.config import Protocol
from bench.datasets import world
from bench.evaluation.record import Cell, Identity
from bench.evaluation.run import Attacker, Scene, compute

pytestmark = pytest.mark.benchmark(timer=time.process_time)
EPS = 8
IMAGES = 32
ROUNDS = 3


@pytest.fixture(scope="module")
def task() -> tuple[nn.Module, Tensor, Tensor]:
    """The shipped mini CLIP on images that it classifies correctly, so that both sides attack the same ones."""
    staged = StagedCLIP(load(Base(architecture="mini", weights="shipped")))
    model = zero_shot(staged, world.SHAPES, "a photo of a {}.")
    pairs = world.captioned(2 * IMAGES, seed=901)
    images = torch.from_numpy(pairs.images).permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor([scene.shape for scene in pairs.scenes])
    right = (predict(model, images) == labels).nonzero().flatten()[:IMAGES]
    return model, images[right], labels[right]


def scene_for(model: nn.Module, images: Tensor, labels: Tensor, attacker: Attacker) -> Scene:
    cell = Cell(
        checkpoint="clean", defense="none", dataset="shapes", split="test", attack=attacker.name,
        threat_model="white_box", seed=1,
    )  # fmt: skip
    identity = Identity(
        cell=cell, checkpoint="", artefact="", manifest="", attack="", attack_options={}, images=None,
        protocol=Protocol(version=1, batch_size=IMAGES, seeds=(1,), shots=1),
    )  # fmt: skip
    return Scene(identity, attacker, model, Knowledge(), images, labels, list(range(len(labels))), None, 0)


def measure(benchmark, capsys, name: str, harness: Callable[[], object], plain: Callable[[], object]) -> float:
    """Time both sides in turn, and print, keep and return the ratio of the fastest rounds."""
    seconds = list[float]()

    def time_plain() -> None:
        start = time.process_time()
        plain()
        seconds.append(time.process_time() - start)

    plain()
    benchmark.pedantic(harness, setup=time_plain, rounds=ROUNDS, warmup_rounds=1)
    ratio = benchmark.stats.stats.min / min(seconds)
    benchmark.extra_info["ratio"] = ratio
    with capsys.disabled():
        print(f"\n{name} = {ratio:.3f} (the latter: {min(seconds):.2f} s)")
    return ratio


def test_pgd_over_torchattacks(benchmark, capsys, task) -> None:
    model, images, labels = task
    scene = scene_for(model, images, labels, Attacker("pgd", pgd, pgd.Options(eps=EPS, steps=100)))
    plain = torchattacks.PGD(model, eps=EPS / 255, alpha=1 / 255, steps=100)
    ratio = measure(
        benchmark,
        capsys,
        "PGD-100: harness / torchattacks",
        lambda: compute(scene, {}, lambda _: None),
        lambda: plain(images, labels),
    )
    assert ratio <= 1.05


def test_autoattack_over_pyautoattack(benchmark, capsys, task) -> None:
    model, images, labels = task
    scene = scene_for(model, images, labels, Attacker("autoattack", autoattack, autoattack.Options(eps=EPS)))
    plain = pyautoattack.AutoAttack(model, eps=EPS / 255, seed=0)
    ratio = measure(
        benchmark,
        capsys,
        "AutoAttack: harness / pyautoattack",
        lambda: compute(scene, {}, lambda _: None),
        lambda: plain.run_standard_evaluation(images, labels, batch_size=IMAGES),
    )
    assert ratio <= 1.1


def test_pgd_with_text_features_computed_once_over_each_step(benchmark, capsys, task) -> None:
    model, images, labels = task
    staged = StagedCLIP(load(Base(architecture="mini", weights="shipped")))
    prompts = sentences(world.SHAPES, "a photo of a {}.")

    def anew(images: Tensor) -> Tensor:
        return scaled_cosine(staged, staged.image(images), staged.features_of(prompts))

    slow = Classifier(anew, len(world.SHAPES), [staged.clip.model])
    options, seeds = pgd.Options(eps=EPS, steps=10), range(len(images))

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
