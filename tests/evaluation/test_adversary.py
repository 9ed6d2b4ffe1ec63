"""Threat models: what the attacker differentiates, and whose verdict counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from bench.attacks import ags, cwa, feature_attack, pgd
from bench.attacks.contract import Knowledge, Result
from bench.clip.defended import DefendedCLIP, Head, Task
from bench.clip.staged import StagedCLIP
from bench.config import Options, Suite, load_suite, parse
from bench.errors import UserError
from bench.evaluation.adversary import Attacker, Mean, load_attacker, view_of, write_attacks
from bench.evaluation.compute import compute
from bench.paths import paths_for
from bench.surrogates.folder import Surrogate, make_surrogate

from .test_run import Brightness, Inverting, scene

TASK = Task(("circle", "square", "star"), "a photo of a {}.")


@pytest.fixture
def defended(mini: StagedCLIP) -> DefendedCLIP:
    weight = torch.randn(3, mini.embedding_width, generator=torch.Generator().manual_seed(3))
    return DefendedCLIP(mini, head=Head(weight, torch.zeros(3), TASK.class_names))


class Recipe:
    """A recipe file whose surrogates are linear."""

    GIVES = "logits"

    @staticmethod
    def restore(tensors: dict[str, Tensor], options: Options, task: Task) -> nn.Module:
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, len(task.class_names), bias=False))
        model[1].weight.data = tensors["weight"]
        return model.eval().requires_grad_(False)


def surrogate(seed: int) -> Surrogate:
    weight = torch.randn(3, 3 * 32 * 32, generator=torch.Generator().manual_seed(seed))
    return Surrogate(f"s{seed}", Recipe, Options(), {"weight": weight}, "")


def view(threat_model: Any, mini: StagedCLIP, defended: DefendedCLIP, *surrogates: Surrogate) -> Any:
    attacker = Attacker("pgd", pgd, pgd.Options(), surrogates)
    classifier = defended.classifier(TASK)
    return classifier, view_of(threat_model, attacker, classifier, defended, DefendedCLIP(mini), None, TASK)


def test_white_box_sees_the_defended_model(mini: StagedCLIP, defended: DefendedCLIP) -> None:
    classifier, seen = view("white_box", mini, defended)
    assert seen.source is classifier
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(seen.knowledge.encoder(images), defended.image(images))


def test_grey_box_sees_the_undefended_model(mini: StagedCLIP, defended: DefendedCLIP) -> None:
    classifier, seen = view("grey_box", mini, defended)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(seen.source(images), DefendedCLIP(mini).classifier(TASK)(images))
    assert not torch.allclose(seen.source(images), classifier(images))


def test_transfer_sees_the_surrogates_and_nothing_else(mini: StagedCLIP, defended: DefendedCLIP) -> None:
    _, seen = view("transfer", mini, defended, surrogate(1), surrogate(2))
    images = torch.rand(2, 3, 32, 32)
    first, second = (each.model(TASK)(images) for each in (surrogate(1), surrogate(2)))
    torch.testing.assert_close(seen.source(images), (first + second) / 2)
    assert len(seen.knowledge.surrogates) == 2
    assert seen.knowledge.encoder is None
    reachable = {id(parameter) for parameter in seen.source.parameters()}
    assert not reachable & {id(parameter) for parameter in mini.clip.model.parameters()}


def test_images_are_crafted_on_the_source_and_judged_by_the_model() -> None:
    class Ignorant(nn.Module):
        """Looks like a brightness classifier that has the classes the wrong way round."""

        def forward(self, images: Tensor) -> Tensor:
            return -Brightness()(images)

    class Ascending(Inverting):
        def attack(self, model, images, labels, *, options, seeds, knowledge) -> Result:
            start = images.clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy(model(start), labels)
            (gradient,) = torch.autograd.grad(loss, start)
            return Result((images + 0.6 * gradient.sign()).clamp(0, 1), eps=None)

    fair = scene(Ascending(), [0, 1])
    assert compute(fair, {}, lambda _: None).hits == 0
    misled = fair._replace(source=Ignorant())
    assert compute(misled, {}, lambda _: None).hits == 2, "the attack pushed the wrong way, and the model is the judge"


def suite_of(attacks: dict, surrogates: dict | None = None) -> Suite:
    return parse(
        Suite,
        {
            "protocol": {"version": 1, "batch_size": 4, "seeds": [1], "shots": 1},
            "datasets": {}, "checkpoints": {}, "surrogates": surrogates or {}, "attacks": attacks,
            "tracks": {}, "tables": {},
        },
        "suite",
    )  # fmt: skip


def test_one_file_serves_several_attacks_by_method(tmp_path: Path) -> None:
    suite = suite_of(
        {
            "pgd": {"threat_model": "white_box"},
            "pgd_eps2": {"threat_model": "white_box", "method": "pgd", "options": {"eps": 2}},
            "apgd_ce": {"threat_model": "white_box", "method": "autoattack_component"},
        }
    )
    paths = paths_for(tmp_path / "benchmark.yaml")
    loaded = {name: load_attacker(suite, name, paths) for name in suite.attacks}
    assert loaded["pgd"].module is loaded["pgd_eps2"].module
    assert loaded["pgd_eps2"].options == pgd.Options(eps=2)
    assert loaded["apgd_ce"].options.model_dump()["component"] == "apgd-ce"
    with pytest.raises(UserError, match="unknown attack 'pgdd'; did you mean 'pgd'"):
        load_attacker(suite_of({"a": {"threat_model": "white_box", "method": "pgdd"}}), "a", paths)


def test_what_stands_for_an_attack_changes_with_that_attack_only(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    attacks = {
        "pgd": {"threat_model": "white_box"},
        "far": {"threat_model": "white_box", "method": "pgd", "options": {"eps": 2}},
    }

    def written() -> dict[str, str]:
        write_attacks(suite_of(attacks), paths_for())
        return {path.stem: path.read_text() for path in Path("models/attacks").iterdir()}

    before = written()
    assert before.keys() == attacks.keys()
    attacks["far"]["options"] = {"eps": 4}
    after = written()
    assert after["pgd"] == before["pgd"]
    assert after["far"] != before["far"]
    del attacks["far"]
    assert written().keys() == {"pgd"}


def test_a_surrogate_must_give_what_the_attack_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clip = {"recipe": "contrastive", "options": {"steps": 1, "batch_size": 4, "digits_per_batch": 1}}
    attacks = {name: {"threat_model": "transfer", "surrogates": ["clip"]} for name in ("cwa", "ags")}
    suite, paths = suite_of(attacks, {"clip": clip}), paths_for()
    make_surrogate(suite, "clip", paths)
    assert load_attacker(suite, "cwa", paths).module is cwa
    with pytest.raises(UserError, match=r"attacks\.ags\.surrogates: 'clip' gives logits.*needs features"):
        load_attacker(suite, "ags", paths)
    assert ags.NEEDS == "features"


def test_the_mean_is_over_models() -> None:
    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 2), self.value)

    mean = Mean((Constant(1.0), Constant(4.0)))
    assert mean(torch.rand(3, 3, 2, 2)).tolist() == [[2.5, 2.5]] * 3


def test_a_label_free_attack_on_embeddings_follows_the_threat_model(mini: StagedCLIP, defended: DefendedCLIP) -> None:
    images, options = torch.rand(2, 3, 32, 32), feature_attack.Options(eps=4, steps=2)
    _, seen = view("grey_box", mini, defended)
    found = feature_attack.attack(
        seen.source, images, torch.zeros(2), options=options, seeds=range(2), knowledge=seen.knowledge
    )
    by_hand = feature_attack.attack(
        seen.source, images, torch.zeros(2), options=options, seeds=range(2),
        knowledge=Knowledge(encoder=view("white_box", mini, DefendedCLIP(mini))[1].knowledge.encoder),
    )  # fmt: skip
    assert torch.equal(found.images, by_hand.images)


def test_a_suite_names_surrogates_where_and_only_where_they_are_used(tmp_path: Path) -> None:
    def refused(attack: dict) -> str:
        content = suite_of({"pgd": {"threat_model": "white_box"}}).model_dump(mode="json")
        content["attacks"]["pgd"] = attack
        content["surrogates"] = {"vit": {"recipe": "contrastive"}}
        path = tmp_path / "benchmark.yaml"
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(UserError) as error:
            load_suite(path)
        return str(error.value)

    assert "attacks.pgd.surrogates: a transfer attack names them" in refused({"threat_model": "transfer"})
    assert "no other attack does" in refused({"threat_model": "white_box", "surrogates": ["vit"]})
    assert "did you mean 'vit'" in refused({"threat_model": "transfer", "surrogates": ["vitt"]})
