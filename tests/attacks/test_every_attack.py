"""What must be true of every evasion attack: bounds, identity at eps 0, growth with eps and steps, and no influence of
batches or of the number of classes."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks import ags, caption_pgd, cw, cwa, feature_attack, pgd
from bench.attacks.checked import run_attack
from bench.attacks.contract import Knowledge
from bench.evaluation.adversary import Mean

from .models import cnn, images_of, rows_of

SIDE, COUNT = 6, 64


class Case(NamedTuple):
    """An attack with small settings, and what it raises."""

    module: ModuleType
    options: dict[str, Any]
    goal: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def lost(model: nn.Module, clean: Tensor, found: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(model(found), labels, reduction="none")


def lead_lost(model: nn.Module, clean: Tensor, found: Tensor, labels: Tensor) -> Tensor:
    return -cw.margins(model(found), labels)


def forgotten(model: nn.Module, clean: Tensor, found: Tensor, labels: Tensor) -> Tensor:
    return -model(found).gather(1, labels[:, None])[:, 0]


def turned(model: nn.Module, clean: Tensor, found: Tensor, labels: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(model(found), model(clean))


def diverged(model: nn.Module, clean: Tensor, found: Tensor, labels: Tensor) -> Tensor:
    before, after = (functional.log_softmax(model(each), dim=-1) for each in (clean, found))
    return (before.exp() * (before - after)).sum(dim=-1)


CASES = {
    "caption_pgd": Case(caption_pgd, {"step": 1, "steps": 10}, forgotten),
    "caption_pgd on cross-entropy": Case(caption_pgd, {"step": 1, "steps": 10, "loss": "cross_entropy"}, lost),
    "pgd": Case(pgd, {"step": 1, "steps": 10}, lost),
    "pgd with restarts": Case(pgd, {"step": 1, "steps": 5, "restarts": 3}, lost),
    "cw": Case(cw, {"step": 1, "steps": 10}, lead_lost),
    "feature_attack": Case(feature_attack, {"steps": 10}, diverged),
    "cwa": Case(cwa, {"steps": 5}, lost),
    "ssa-cwa": Case(cwa, {"steps": 3, "variant": "ssa", "copies": 3}, lost),
    "ags": Case(ags, {"step": 1, "steps": 10}, turned),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def run(case: Case, model: nn.Module, images: Tensor, labels: Tensor, rows: Any = None, **changes: Any) -> Tensor:
    """The checked call, which raises where the ball or the range is left."""
    rows = range(len(images)) if rows is None else rows
    options = case.module.Options(**{**case.options, **changes})
    knowledge = Knowledge(encoder=model, surrogates=(model,))
    return run_attack(
        case.module, Mean((model,)), images, labels, options=options, seeds=[7 + row for row in rows],
        knowledge=knowledge,
    ).images  # fmt: skip


@pytest.mark.parametrize("options", [{"steps": 3}, {"steps": 2, "variant": "ssa", "copies": 3}])
def test_passes_that_the_estimate_counts_on_are_those_that_are_made(options: dict[str, Any]) -> None:
    models, images, chosen = (cnn(3, SIDE), cnn(3, SIDE, seed=1)), images_of(4, SIDE), cwa.Options(**options)
    attacked = run_attack(
        cwa, Mean(models), images, torch.zeros(4, dtype=torch.long), options=chosen, seeds=range(4),
        knowledge=Knowledge(surrogates=models),
    )  # fmt: skip
    assert (attacked.forwards - attacked.backwards, attacked.backwards) == tuple(
        4 * count for count in cwa.passes(chosen, 3, 2)
    )


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return cnn(5, SIDE)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return images_of(COUNT, SIDE)


@pytest.fixture(scope="module")
def labels(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).argmax(dim=1)


def test_eps_zero_changes_nothing(case: Case, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    assert torch.equal(run(case, model, images, labels, eps=0), images)


def test_a_larger_ball_is_never_worse_for_the_attacker(
    case: Case, model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    reached = []
    for eps in (0, 1, 2, 4, 8):
        found = run(case, model, images, labels, eps=eps)
        assert (found - images).abs().max() <= eps / 255 + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1
        reached.append(case.goal(model, images, found, labels).mean().item())
    assert reached == sorted(reached)
    assert reached[-1] > reached[0] + 1e-6


def test_more_steps_are_not_worse_on_average(case: Case, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    few, many = (
        case.goal(model, images, run(case, model, images, labels, eps=8, steps=steps), labels).mean()
        for steps in (1, 12)
    )
    assert few < many


def test_batches_do_not_matter(case: Case, images: Tensor, labels: Tensor) -> None:
    # In float64, so that the order of sums cannot turn the sign of a tiny gradient.
    model, doubles = cnn(5, SIDE).double(), images.double()
    results = [
        torch.cat(
            [run(case, model, doubles[list(rows)], labels[list(rows)], rows, eps=4) for rows in rows_of(COUNT, size)]
        )
        for size in (1, 7, COUNT)
    ]
    for other in results[:2]:
        torch.testing.assert_close(other, results[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 12])
def test_any_number_of_classes_will_do(case: Case, classes: int) -> None:
    model, images = cnn(classes, SIDE), images_of(8, SIDE)
    labels = model(images).argmax(dim=1)
    found = run(case, model, images, labels, eps=8)
    assert (case.goal(model, images, found, labels) > case.goal(model, images, images, labels)).all()


def test_the_same_seeds_give_the_same_images(case: Case, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    first, second = (run(case, model, images[:8], labels[:8], eps=4) for _ in range(2))
    assert torch.equal(first, second)


def test_the_global_random_stream_is_not_moved(case: Case, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    state = torch.random.get_rng_state()
    run(case, model, images[:4], labels[:4], eps=4)
    assert torch.equal(state, torch.random.get_rng_state())
