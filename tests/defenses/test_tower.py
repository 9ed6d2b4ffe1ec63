"""Adversarial fine-tuning of the image tower: TeCoA, FARE, TGA-ZSR, and weights from elsewhere."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from bench.clip.model import Base, build, load, save_weights, weights_hash
from bench.clip.staged import Trace
from bench.config import parse
from bench.defenses import fare, linear_probe, robust_weights, rvpt, tecoa, tga
from bench.defenses.tuning import tune
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("seeded", "exact")

TOWERS = [tecoa, fare, tga]
each = pytest.mark.parametrize("module", TOWERS, ids=lambda module: module.__name__.rsplit(".", 1)[-1])


def settings(module, **changes):
    quick = {"epochs": 2, "batch_size": 4, "warmup_steps": 0, "learning_rate": 1e-4, "attack_steps": 2, "eps": 2.0}
    return module.Options(**quick | changes)


def fitted(module, victim, few, **changes):
    options = settings(module, **changes)
    return module.load(module.fit(victim, few, options), victim, options)


def losses(module, monkeypatch, victim, few, **changes):
    """Mean loss of each epoch."""
    history = []
    monkeypatch.setattr("bench.defenses.tower.tune", lambda *given: history.append(tune(*given)))
    module.fit(victim, few, settings(module, **changes))
    return history[0]


@each
def test_only_the_image_tower_is_another(module, shipped, few):
    tuned = fitted(module, shipped, few)
    before, after = (model.staged.clip.model.state_dict() for model in (shipped, tuned))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("visual.") for name in changed)
    assert tuned.origin is shipped.staged


@each
def test_tuning_lowers_the_loss_that_it_minimises(module, shipped, few, monkeypatch):
    history = losses(
        module, monkeypatch, shipped, few, epochs=6, batch_size=8, learning_rate=3e-4, optimizer="adamw", eps=8.0
    )
    assert history[-1] < 0.9 * history[0]


def test_tecoa_without_an_attack_is_plain_fine_tuning(shipped, few, monkeypatch):
    first = losses(tecoa, monkeypatch, shipped, few, epochs=1, batch_size=8, eps=0.0)[0]
    logits = shipped.classifier(few.task)(few.images)
    assert first == pytest.approx(functional.cross_entropy(logits, few.labels).item(), rel=1e-5)


def test_fare_starts_at_no_loss_where_nothing_is_attacked(shipped, few, monkeypatch):
    assert losses(fare, monkeypatch, shipped, few, epochs=1, batch_size=8, eps=0.0) == [0.0]
    assert losses(fare, monkeypatch, shipped, few, epochs=1, batch_size=8, eps=2.0)[0] > 0


def test_fare_looks_at_squared_distances_of_embeddings_as_they_are(shipped, few):
    clean, moved = shipped.image(few.images), shipped.image(few.images.flip(-1))
    expected = [((a - b) ** 2).sum().item() for a, b in zip(moved, clean, strict=True)]
    assert fare.drift(moved, clean).tolist() == pytest.approx(expected, rel=1e-5)
    assert not torch.allclose(clean.norm(dim=-1), torch.ones(len(clean)), atol=0.1)


def test_fare_does_not_look_at_labels(shipped, few):
    tuned = []
    for labels in (few.labels, few.labels.flip(0)):
        torch.manual_seed(5)
        tuned.append(fare.fit(shipped, few._replace(labels=labels), settings(fare, epochs=1)))
    assert all(torch.equal(tensor, tuned[1][name]) for name, tensor in tuned[0].items())


def test_tga_without_its_penalties_has_the_loss_of_tecoa(shipped, few, monkeypatch):
    seen = []
    for module, changes in ((tecoa, {}), (tga, {"alpha": 0.0, "beta": 0.0}), (tga, {})):
        torch.manual_seed(5)
        seen += losses(module, monkeypatch, shipped, few, epochs=1, batch_size=8, **changes)
    assert seen[1] == pytest.approx(seen[0], rel=1e-4)
    assert seen[2] > 1.1 * seen[0]


@pytest.mark.parametrize("over", ["tokens", "channels"])
def test_attention_maps(shipped, few, over):
    """From patch features as the official code normalises them (over the tokens), or over the channels."""
    options, trace = settings(tga, normalised_over=over), Trace(every_token=True)
    shipped.image(few.images, trace)
    texts, visual = shipped.texts(few.task)[few.labels], shipped.staged.visual
    maps = tga.patch_maps(shipped.staged, trace.tokens[-1], texts, options)
    for tokens, text, found in zip(trace.tokens[-1], texts, maps, strict=True):
        features = visual.ln_post(tokens) @ visual.proj
        features = features / features.norm(dim=0 if over == "tokens" else 1, keepdim=True)
        likeness = features[1:] @ text
        expected = (likeness - likeness.min()) / (likeness.max() - likeness.min())
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_penalty_is_the_weighted_mean_distance_of_maps():
    options, maps = settings(tga, alpha=0.08, beta=0.05), torch.rand(3, 16)
    assert tga.penalty(maps.repeat(2, 1), maps, options) == 0
    assert tga.penalty(torch.cat([maps + 0.5, maps]), maps, options).item() == pytest.approx(0.08 * 0.5 * 4, rel=1e-4)
    assert tga.penalty(torch.cat([maps, maps + 0.5]), maps, options).item() == pytest.approx(0.05 * 0.5 * 4, rel=1e-4)


def test_a_map_without_contrast_is_no_division_by_zero(shipped):
    tokens = torch.zeros(1, 17, shipped.staged.image_width)
    maps = tga.patch_maps(shipped.staged, tokens, torch.ones(1, shipped.staged.embedding_width), settings(tga))
    assert torch.equal(maps, torch.zeros_like(maps))


def test_recipes():
    paper, authors = tecoa.Options(), tecoa.Options(recipe="authors")
    assert (paper.optimizer, paper.epochs, paper.batch_size, paper.eps, paper.attack_steps) == ("adamw", 2, 128, 4, 10)
    assert (authors.optimizer, authors.epochs, authors.batch_size, authors.eps, authors.attack_steps) == (
        *("sgd", 10, 256, 1, 2),
    )
    assert tecoa.Options(recipe="authors", eps=2.0).eps == 2
    assert (tga.Options().epochs, tga.Options(recipe="authors").epochs) == (2, 10)
    with pytest.raises(UserError, match=r"warmup_stepz.*warmup_steps"):
        parse(tecoa.Options, {"recipe": "authors", "warmup_stepz": 3}, "benchmark.yaml")


def test_the_rate_rises_step_by_step_and_falls_to_zero():
    options = tecoa.Options(learning_rate=1.0, epochs=2, warmup_steps=4)
    rates = [options.rate(step, per_epoch=5) for step in range(11)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(after < before for before, after in pairwise(rates[4:]))
    assert rates[10] == pytest.approx(0)


def test_a_tower_that_is_edited_already_is_refused(victim, few):
    options = rvpt.Options(epochs=1, length=2)
    prompted = rvpt.load(rvpt.fit(victim, few, options), victim, options)
    with pytest.raises(UserError, match="tecoa needs towers that no other defense has edited; here the image tower"):
        tecoa.fit(prompted, few, settings(tecoa))
    probed = linear_probe.load(linear_probe.fit(victim, few, linear_probe.Options(epochs=1)), victim, None)
    with pytest.raises(UserError, match="fare cannot follow a linear head"):
        fare.fit(probed, few, settings(fare))


def test_weights_from_a_file_replace_the_image_tower_only(victim, tmp_path, few):
    other = load(Base(architecture="mini", weights="shipped"))
    save_weights(other, tmp_path / "robust.safetensors")
    options = robust_weights.Options(weights=str(tmp_path / "robust.safetensors"))
    assert robust_weights.reads(options) == [tmp_path / "robust.safetensors"]
    model = robust_weights.load(robust_weights.fit(victim, None, options), victim, options)
    assert weights_hash(model.staged.visual) == weights_hash(other.model.visual)
    assert torch.equal(model.texts(few.task), victim.texts(few.task))


def test_robust_weights_of_another_architecture_are_refused(victim, tmp_path):
    with pytest.raises(UserError, match="'fare4' belong to architecture 'ViT-L-14-quickgelu', not 'mini'"):
        robust_weights.fit(victim, None, robust_weights.Options(weights="fare4"))
    save_weights(build("mini_small"), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="does not hold a 'mini'"):
        robust_weights.fit(victim, None, robust_weights.Options(weights=str(tmp_path / "other.safetensors")))
    with pytest.raises(UserError, match=r"gone\.safetensors is missing"):
        robust_weights.reads(robust_weights.Options(weights="gone.safetensors"))
