"""Replacing modules: the end points are the two models, and every tensor moves once."""

from typing import Any

import pytest
import torch

from bench.analyses import replacement
from bench.analyses.contract import Source
from bench.analyses.subjects.attacking import open_attack, robust_count
from bench.analyses.subjects.models import Loaded, Sample, load_models, open_models
from bench.analyses.subjects.references import AttackReference, ModelReference
from bench.analyses.subjects.towers import check_towers, modules_of
from bench.clip.defended import DefendedCLIP
from bench.clip.model import build
from bench.clip.staged import StagedCLIP
from bench.errors import UserError
from tests.analyses.conftest import CLEAN, TUNED, models


def loaded(source: Source, **named: dict[str, str]) -> list[Loaded]:
    references = {name: ModelReference.model_validate(given) for name, given in named.items()}
    return list(load_models(source, references, "shapes"))


def given(**changes: Any) -> replacement.Options:
    content: dict[str, Any] = {
        "panels": {"shapes": {"dataset": "shapes"}},
        "standard": CLEAN,
        "models": {"tuned": TUNED},
        "attacks": {"clean": {"attack": "clean"}, "PGD": {"attack": "pgd"}, "PGD, replayed": {"attack": "pgd_grey"}},
    }
    return replacement.Options.model_validate(content | changes)


@pytest.mark.parametrize("name", ["mini", "vit_b_32"])
def test_the_modules_hold_every_tensor_of_the_tower_once(name: str, request: pytest.FixtureRequest) -> None:
    staged: StagedCLIP = request.getfixturevalue(name)
    modules = modules_of(staged)
    assert list(modules)[:4] == ["Emb.", "B1-Attn", "B1-MLP", "B2-Attn"]
    assert list(modules)[-2:] == [f"B{len(staged.image_blocks)}-MLP", "Head"]
    names = [name for own in modules.values() for name in own]
    assert sorted(names) == sorted(staged.visual.state_dict())
    assert {"conv1.weight", "ln_pre.bias", "positional_embedding"} <= set(modules["Emb."])
    assert modules["B1-Attn"][0].startswith("transformer.resblocks.0.ln_1")


def test_the_ends_are_the_two_models_and_each_step_replaces_one_module(source: Source, sample: Sample) -> None:
    standard, robust = loaded(source, standard=CLEAN, robust=TUNED)
    images, modules = sample.split.batch(range(3)), modules_of(standard.defended.staged)
    first, last = (model.defended.staged.visual.state_dict() for model in (standard, robust))
    replaced, seen = set[str](), list[str]()
    for place, stage, mixed in replacement.mixtures(source, standard, robust):
        replaced.update(modules.get(stage, []))
        seen.append(stage)
        for name, tensor in mixed.staged.visual.state_dict().items():
            assert torch.equal(tensor, (last if name in replaced else first)[name])
        with torch.no_grad():
            embedded = mixed.image(images)
            if place == 0:
                assert torch.equal(embedded, standard.defended.image(images))
            else:
                assert not torch.equal(embedded, standard.defended.image(images))
    assert seen == [replacement.START, *modules]
    with torch.no_grad():
        assert torch.equal(embedded, robust.defended.image(images))


def test_the_standard_model_itself_is_never_changed(source: Source) -> None:
    standard, robust = loaded(source, standard=CLEAN, robust=TUNED)
    before = {name: tensor.clone() for name, tensor in standard.defended.staged.visual.state_dict().items()}
    list(replacement.mixtures(source, standard, robust))
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in standard.defended.staged.visual.state_dict().items()
    )


def test_accuracies_at_the_ends_are_those_of_the_models(source: Source, sample: Sample) -> None:
    frame = replacement.measure(source, given(modules=["B1-Attn"]))
    assert list(frame["stage"].unique()) == [replacement.START, "B1-Attn", "Head"]
    assert set(frame["n"]) == {24}
    ends = open_models(
        source, {name: ModelReference.model_validate(each) for name, each in (("a", CLEAN), ("b", TUNED))}, sample
    )
    undefended, robust = ends
    for stage, model in ((replacement.START, undefended), ("Head", robust)):
        for label, attack in (("clean", "clean"), ("PGD", "pgd"), ("PGD, replayed", "pgd_grey")):
            attacker = open_attack(source, AttackReference(attack=attack), "key")
            expected = robust_count(source, attacker, model, undefended, sample)
            line = frame[(frame["stage"] == stage) & (frame["attack"] == label)].iloc[0]
            assert (line["hits"], line["n"]) == expected
    clean = frame[frame["attack"] == "clean"].set_index("stage")["hits"]
    attacked = frame[frame["attack"] != "clean"]
    assert all(line.hits <= clean[line.stage] for line in attacked.itertuples())


def test_a_wrong_module_and_a_wrong_attack_are_told(source: Source) -> None:
    with pytest.raises(UserError, match=r"options\.modules: unknown module 'B1-Atn'; did you mean 'B1-Attn'"):
        replacement.measure(source, given(modules=["B1-Atn"]))
    with pytest.raises(UserError, match=r"options\.attacks\.T: 'trigger' counts a backdoor's success"):
        replacement.measure(source, given(attacks={"T": {"attack": "trigger"}}))


def test_a_model_that_cannot_be_put_in_is_told(source: Source) -> None:
    (standard,) = loaded(source, standard=CLEAN)
    other = DefendedCLIP(StagedCLIP(build("mini_small")))
    with pytest.raises(UserError, match="model 'R' is a 'mini_small', but the standard model is a 'mini'"):
        check_towers(source, standard.defended, other, "R")
    for defense, message in (
        ("rvpt", "model 'rvpt' adds prompts, a filter, an anchor or a head to CLIP"),
        ("cleanclip", r"model 'cleanclip' has a text tower of its own \('\w+' differs\)"),
    ):
        with pytest.raises(UserError, match=message):
            replacement.measure(source, given(models=models(defense)))
