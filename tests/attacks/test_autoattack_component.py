"""Each part of AutoAttack alone, against a direct run of the package; full settings on six 6x6 images."""

from functools import cache
from typing import get_args

import pyautoattack
import pytest
import torch

from bench.attacks import autoattack, autoattack_component
from bench.attacks.autoattack_component import Component, Options
from bench.attacks.checked import run_attack
from bench.attacks.contract import Knowledge, Result

from .models import clear_cut, cnn, images_of, rows_of, verdicts

EPS = 6
COMPONENTS: tuple[Component, ...] = get_args(Component)


@cache
def run(component: Component, classes: int, eps: float = EPS) -> Result:
    model, images = cnn(classes), images_of(6)
    labels = model(images).argmax(dim=1)
    return autoattack_component.attack(
        model, images, labels, options=Options(component=component, eps=eps), seeds=range(6), knowledge=Knowledge()
    )


def directly(component: str, classes: int) -> torch.Tensor:
    model, images = cnn(classes), images_of(6)
    cascade = pyautoattack.AutoAttack(model, eps=EPS / 255, seed=0, version="custom", attacks=[component])
    cascade.apgd.n_restarts = cascade.fab.n_restarts = cascade.apgd_targeted.n_restarts = 1
    cascade.apgd_targeted.n_target_classes = cascade.fab.n_target_classes = min(9, classes - 1)
    return cascade.run_standard_evaluation(images, model(images).argmax(dim=1), batch_size=6)[0]


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_part_equals_a_direct_run_of_the_package(component: Component) -> None:
    result = run(component, 4)
    assert torch.equal(result.images, directly(component, 4))
    assert not torch.equal(result.images, images_of(6)), "the part finds something at this radius"
    assert (result.eps, result.flags) == (EPS / 255, frozenset())


@pytest.mark.parametrize("component", [component for component in COMPONENTS if component != "square"])
def test_eps_zero_changes_nothing_and_passes_are_about_those_of_the_estimate(component: Component) -> None:
    model, images = cnn(4), images_of(1)
    labels, options = model(images).argmax(dim=1), Options(component=component, eps=0)
    attacked = run_attack(autoattack_component, model, images, labels, options=options, seeds=[0])
    assert torch.equal(attacked.images, images)
    _, gradients = autoattack_component.passes(options, 4, 0)
    assert gradients <= attacked.backwards <= 1.05 * gradients + 5


@pytest.mark.parametrize(("component", "classes", "stand_in"), [("apgd-t", 3, "apgd-dlr"), ("fab-t", 2, "fab")])
def test_a_part_that_needs_more_classes_is_replaced_and_flagged(
    component: Component, classes: int, stand_in: str
) -> None:
    result = run(component, classes)
    assert torch.equal(result.images, directly(stand_in, classes))
    assert result.flags == {"few_classes"}


@pytest.mark.parametrize("component", ["apgd-dlr", "apgd-t"])
def test_dlr_does_not_exist_for_two_classes(component: Component) -> None:
    with pytest.raises(ValueError, match="apgd-dlr needs 3 classes, and the model has 2"):
        run(component, 2)


@pytest.mark.parametrize(
    ("component", "classes"),
    [*((component, classes) for component in ("apgd-ce", "fab") for classes in (2, 3, 4, 10, 12)), ("square", 2)],
)
def test_parts_without_targets_take_any_number_of_classes(component: Component, classes: int) -> None:
    images = images_of(6)
    result = run(component, classes, eps=2)
    assert (result.images - images).abs().max() <= 2 / 255 + 1e-6
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert result.flags == frozenset()


def test_the_cascade_is_no_weaker_than_its_parts() -> None:
    model, images = cnn(4), images_of(6)
    labels = model(images).argmax(dim=1)
    whole = autoattack.attack(
        model, images, labels, options=autoattack.Options(eps=EPS), seeds=range(6), knowledge=Knowledge()
    )
    robust = verdicts(model, whole.images, labels)
    for component in ("apgd-ce", "apgd-t", "fab-t", "square"):
        alone = verdicts(model, run(component, 4).images, labels)
        assert all(part or not all_ for part, all_ in zip(alone, robust, strict=True)), component


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_larger_ball_leaves_no_more_images_robust(component: Component) -> None:
    model, images = cnn(4), images_of(6)
    labels = model(images).argmax(dim=1)
    left = [sum(verdicts(model, run(component, 4, eps).images, labels)) for eps in (1, 3, EPS, 12)]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1]


@pytest.mark.parametrize("component", [component for component in COMPONENTS if component != "square"])
def test_a_linear_model_is_broken_where_its_margin_says_so_in_batches_of_any_size(component: Component) -> None:
    model, images, labels, robust = clear_cut(5, 8, 16)
    for size in (1, 5, 16):
        found = [
            autoattack_component.attack(
                model, images[list(rows)], labels[list(rows)], options=Options(component=component, eps=8),
                seeds=list(rows), knowledge=Knowledge(),
            ).images
            for rows in rows_of(16, size)
        ]  # fmt: skip
        assert verdicts(model, torch.cat(found), labels) == robust.tolist(), size
