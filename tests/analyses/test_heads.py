"""Shapley values on games whose solution is known, and coalitions of heads at their two ends."""

from itertools import combinations
from math import factorial

import numpy as np
import pytest
import torch
from torch.nn import functional

from bench.analyses import heads
from bench.analyses.contract import Source
from bench.analyses.formulas.shapley import Coalition, Floats, orders_of, prefixes, shapley
from bench.analyses.subjects.models import Loaded, Sample, load_models
from bench.analyses.subjects.references import ModelReference
from bench.analyses.subjects.towers import modules_of, take_over
from bench.clip.model import build
from bench.clip.staged import StagedCLIP
from bench.errors import UserError
from tests.analyses.conftest import CLEAN, TUNED, models


def game(players: int, seed: int, images: int = 1) -> dict[Coalition, Floats]:
    """Any worth for every coalition."""
    dice = np.random.default_rng(seed)
    every = [frozenset(members) for size in range(players + 1) for members in combinations(range(players), size)]
    return {coalition: dice.normal(size=images) for coalition in every}


def by_weights(players: int, worth: dict[Coalition, Floats]) -> list[float]:
    """Shapley's own formula over coalitions."""
    values = [0.0] * players
    for player in range(players):
        for coalition in worth:
            if player not in coalition:
                share = factorial(len(coalition)) * factorial(players - len(coalition) - 1) / factorial(players)
                values[player] += share * (worth[coalition | {player}] - worth[coalition]).mean()
    return values


@pytest.mark.parametrize("players", [1, 3, 5])
def test_few_players_have_the_exact_values(players: int) -> None:
    worth, orders = game(players, 4, images=9), orders_of(players, 2, 0)
    assert len(orders) == factorial(players)
    told = shapley(orders, worth)
    assert told.values == pytest.approx(by_weights(players, worth))
    assert told.values.sum() == pytest.approx((worth[frozenset(range(players))] - worth[frozenset()]).mean())
    each = [by_weights(players, {key: value[[row]] for key, value in worth.items()}) for row in range(9)]
    assert told.errors == pytest.approx(np.std(each, axis=0) / 3), "over images; every order was tried"


def test_random_orders_sum_to_the_total_and_come_near_within_their_errors() -> None:
    worth, orders = game(8, 1), orders_of(8, 400, 3)
    assert len(orders) == 400
    told = shapley(orders, worth)
    assert told.values.sum() == pytest.approx((worth[frozenset(range(8))] - worth[frozenset()]).item())
    assert (np.abs(told.values - by_weights(8, worth)) < 4 * told.errors).all()
    assert orders == orders_of(8, 400, 3) != orders_of(8, 400, 4)


def test_players_who_do_the_same_get_the_same_and_who_does_nothing_gets_nothing() -> None:
    worth = {coalition: np.array([len(coalition & {0, 1}) == 2], float) for coalition in game(4, 0)}
    assert shapley(orders_of(4, 2, 0), worth).values == pytest.approx([0.5, 0.5, 0, 0])


@pytest.fixture(scope="module")
def pair(source: Source) -> tuple[Loaded, Loaded]:
    references = {name: ModelReference.model_validate(each) for name, each in (("standard", CLEAN), ("robust", TUNED))}
    standard, robust = load_models(source, references, "shapes")
    return standard, robust


@pytest.mark.parametrize("name", ["mini", "vit_b_32"])
def test_what_the_heads_add_is_in_sum_the_attention(name: str, request: pytest.FixtureRequest) -> None:
    staged: StagedCLIP = request.getfixturevalue(name)
    size, block = staged.clip.image_size, staged.image_blocks[0]
    with torch.no_grad():
        tokens = staged.image_tokens(torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
        parts = heads.head_outputs(staged, tokens)
        assert parts.shape == (block.attn.num_heads, 2, 1 + staged.patches, staged.image_width)
        torch.testing.assert_close(parts.sum(dim=0), block.attention(block.ln_1(tokens)), atol=1e-5, rtol=1e-4)


def test_all_heads_are_the_robust_model_and_none_the_one_with_the_standard_attention(
    pair: tuple[Loaded, Loaded], sample: Sample
) -> None:
    standard, robust = (model.defended.staged for model in pair)
    images = sample.split.batch(range(4))
    with torch.no_grad():
        tokens = robust.image_tokens(images)
        kept, others = (heads.head_outputs(model, tokens) for model in (robust, standard))
        whole, bare = (
            robust.image_from(tokens, 1, heads._with_heads(kept, others, coalition))
            for coalition in (frozenset(range(4)), frozenset[int]())
        )
        torch.testing.assert_close(whole, robust.image(images), atol=1e-5, rtol=1e-4)
        mixed, clip = pair[1].defended, build("mini")
        clip.model.load_state_dict(robust.clip.model.state_dict())
        swapped = type(mixed)(StagedCLIP(clip))
        take_over(swapped, pair[0].defended, modules_of(standard)["B1-Attn"])
        torch.testing.assert_close(bare, swapped.image(images), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(whole, bare, atol=1e-3)


def test_the_worth_is_accuracy_and_the_frame_adds_up(
    source: Source, pair: tuple[Loaded, Loaded], sample: Sample
) -> None:
    standard, robust = (model.defended.staged for model in pair)
    texts = functional.normalize(torch.randn(12, 128, generator=torch.Generator().manual_seed(1)), dim=-1)
    images, everyone = sample.split.batch(sample.rows), frozenset(range(4))
    worth = heads.worths(robust, standard, [everyone], images, sample.labels, texts)
    with torch.no_grad():
        predicted = (functional.normalize(robust.image(images), dim=-1) @ texts.T).argmax(dim=1)
    assert worth[everyone].tolist() == (100 * (predicted == sample.labels).double()).tolist()
    options = heads.Options.model_validate(
        {"dataset": "shapes", "images": 12, "standard": CLEAN, "robust": TUNED, "attack": {"attack": "pgd"}}
    )
    frame = heads.measure(source, options).set_index("part")
    total = frame.loc["all", "value"] - frame.loc["none", "value"]
    assert frame.loc["head", "value"].sum() == pytest.approx(total)
    assert len(frame.loc["map"]) == 4 * 16
    assert (frame.loc["map"].groupby("head")["value"].sum() < 1).all(), "the rest is on the class token itself"


def test_prefixes_go_from_nobody_to_everybody() -> None:
    assert prefixes((2, 0)) == [frozenset(), frozenset({2}), frozenset({0, 2})]


def test_a_robust_model_of_another_kind_is_told(source: Source) -> None:
    options = heads.Options.model_validate(
        {"dataset": "shapes", "standard": CLEAN, "robust": models("rvpt")["rvpt"], "attack": {"attack": "pgd"}}
    )
    with pytest.raises(UserError, match="model 'robust' adds prompts, a filter, an anchor or a head to CLIP"):
        heads.measure(source, options)
