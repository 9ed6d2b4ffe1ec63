"""The papers' scale: every attack on ViT-B/32 with random weights, on images of 224 pixels.

Only the number of steps is smaller than in a real run; of AutoAttack one image takes them all.
"""

from typing import Any, NamedTuple

import pyautoattack
import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.attacks import autoattack
from bench.attacks.checked import run_attack
from bench.attacks.contract import Knowledge
from bench.clip.classifier import Classifier
from bench.clip.defended import DefendedCLIP, Task
from bench.clip.staged import StagedCLIP
from bench.evaluation.adversary import Mean
from bench.items import item_ids, load_item
from bench.surrogates import ags as substitutes
from bench.surrogates import published

TASK = Task(("cat", "golden retriever", "forest", "river", "sea"), "a photo of a {}.")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ags": ("ags", {"steps": 2}),
    "apgd-ce": ("autoattack_component", {"component": "apgd-ce"}),
    "apgd-dlr": ("autoattack_component", {"component": "apgd-dlr"}),
    "apgd-t": ("autoattack_component", {"component": "apgd-t"}),
    "caption_pgd": ("caption_pgd", {"steps": 2}),
    "cw": ("cw", {"steps": 2}),
    "cw, l2": ("cw", {"norm": "l2", "steps": 12, "c": 100, "learning_rate": 0.05}),
    "cw, l2_clipped": ("cw", {"norm": "l2_clipped", "steps": 12, "c": 100, "learning_rate": 0.05}),
    "cwa": ("cwa", {"steps": 1}),
    "fab": ("autoattack_component", {"component": "fab"}),
    "fab-t": ("autoattack_component", {"component": "fab-t"}),
    "feature_attack": ("feature_attack", {"steps": 2}),
    "pgd": ("pgd", {"steps": 2}),
    "square": ("autoattack_component", {"component": "square"}),
    "ssa-cwa": ("cwa", {"steps": 1, "variant": "ssa", "copies": 2}),
}
# Not attacks on a classifier; tests/backdoors/test_paper_scale.py has the triggers, tests/lvlm/test_views.py V-Attack.
ELSEWHERE = {"clean", "trigger", "v_attack"}


class Setting(NamedTuple):
    """A victim and what an attacker may know of it."""

    victim: nn.Module
    encoder: nn.Module
    surrogates: tuple[nn.Module, ...]
    substitute: nn.Module


@pytest.fixture(scope="module")
def setting(vit_b_32: StagedCLIP) -> Setting:
    clip = DefendedCLIP(vit_b_32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        names = ("ViT-B-16-quickgelu", "RN50-quickgelu")
        options = [published.Options(architecture=name, weights="random") for name in names]
        surrogates = tuple(published.restore(published.make(each, None), each, TASK) for each in options)  # type: ignore[arg-type]
        backbone = substitutes.Options(backbone="resnet50")
        substitute = substitutes.restore(substitutes._backbone(backbone).state_dict(), backbone, TASK)
    return Setting(clip.classifier(TASK), Classifier(clip.image, 512), surrogates, substitute)


def attack(setting: Setting, name: str, options: dict[str, Any], count: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Clean and adversarial images, and how many passes with a gradient it took."""
    module = load_item("attacks", name, "this test")
    images = torch.rand(count, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = setting.victim(images).argmax(dim=1)
    seen = (setting.substitute,) if name == "ags" else setting.surrogates
    attacked = run_attack(
        module,
        Mean(seen) if name in ("ags", "cwa") else setting.victim,
        images,
        labels,
        options=module.Options(**options),
        seeds=range(count),
        knowledge=Knowledge(encoder=setting.encoder, surrogates=seen),
    )
    return images, attacked.images, attacked.backwards


def test_every_attack_is_tried_below() -> None:
    assert {name for name, _ in CASES.values()} | {"autoattack"} | ELSEWHERE == set(item_ids("attacks"))


@pytest.mark.parametrize("case", CASES)
def test_a_few_steps(monkeypatch: pytest.MonkeyPatch, setting: Setting, case: str) -> None:
    build = autoattack.build

    def quick(*arguments: Any) -> pyautoattack.AutoAttack:
        cascade = build(*arguments)
        cascade.apgd.n_iter = cascade.apgd_targeted.n_iter = cascade.fab.n_iter = 2
        cascade.square.n_queries = 3
        return cascade

    monkeypatch.setattr(autoattack, "build", quick)
    name, options = CASES[case]
    images, found, _ = attack(setting, name, {"eps": 4} | options, 2)
    assert torch.isfinite(found).all()
    if case != "square":  # the package hands back what changes a verdict only, which three queries seldom do
        assert not torch.equal(found, images)
    if options.get("norm") != "l2":
        assert (found - images).abs().max() <= 4 / 255 + 1e-6


def test_autoattack_with_all_its_steps(setting: Setting) -> None:
    images, found, backwards = attack(setting, "autoattack", {"eps": 8}, 1)
    assert backwards >= 100
    assert functional.cosine_similarity(setting.encoder(images), setting.encoder(found)) < 1 - 1e-4
    assert not torch.equal(setting.victim(found).argmax(dim=1), setting.victim(images).argmax(dim=1))
