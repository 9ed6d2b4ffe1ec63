"""Full standard settings (100 iterations, 5,000 queries) on six 6x6 images, except where a test says otherwise."""

from collections.abc import Iterator
from functools import cache

import pyautoattack
import pyautoattack.checks
import pytest
import torch
from torch import Tensor, nn

from bench.attacks import autoattack
from bench.attacks.contract import Knowledge, Result

from .models import (
    Dynamic,
    Noisy,
    Quantised,
    Softmax,
    clear_cut,
    cnn,
    images_of,
    rows_of,
    verdicts,
)

# Radius in /255 at which some of the six images stay robust and some do not.
EPS = {2: 8, 3: 8, 4: 8, 10: 4, 12: 4}


@pytest.fixture(autouse=True)
def _package_without_memory() -> Iterator[None]:
    yield
    # The package's counters for "dynamic" models are global and never reset; other tests must not inherit them.
    pyautoattack.checks.funcs.update(dict.fromkeys(pyautoattack.checks.funcs, 0))


def run(model: nn.Module, images: Tensor, labels: Tensor, eps: float, seed: int = 0) -> Result:
    return autoattack.attack(
        model,
        images,
        labels,
        options=autoattack.Options(eps=eps, seed=seed),
        seeds=list(range(len(images))),
        knowledge=Knowledge(),
    )


@cache
def example(classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    model, images = cnn(classes), images_of(6)
    return model, images, model(images).argmax(dim=1)


@cache
def ours(classes: int) -> Result:
    return run(*example(classes), EPS[classes])


def by_hand(model: nn.Module, classes: int, eps: float, attacks: list[str] | None = None) -> pyautoattack.AutoAttack:
    """The standard cascade set up from the paper's numbers, with as many targets as there are other classes."""
    if classes >= 10 and attacks is None:
        return pyautoattack.AutoAttack(model, eps=eps / 255, seed=0)
    usual = {2: ["apgd-ce", "fab", "square"], 3: ["apgd-ce", "apgd-dlr", "fab-t", "square"]}
    chosen = attacks or usual.get(classes, ["apgd-ce", "apgd-t", "fab-t", "square"])
    cascade = pyautoattack.AutoAttack(model, eps=eps / 255, seed=0, version="custom", attacks=chosen)
    cascade.apgd.n_restarts = cascade.fab.n_restarts = cascade.apgd_targeted.n_restarts = 1
    cascade.apgd_targeted.n_target_classes = cascade.fab.n_target_classes = min(9, classes - 1)
    return cascade


@pytest.mark.parametrize("classes", sorted(EPS))
def test_robust_set_and_images_equal_a_direct_run_of_the_package(classes: int) -> None:
    model, images, labels = example(classes)
    adversarial, _ = by_hand(model, classes, EPS[classes]).run_standard_evaluation(images, labels, batch_size=6)
    robust = verdicts(model, ours(classes).images, labels)
    assert robust == verdicts(model, adversarial, labels)
    assert torch.equal(ours(classes).images, adversarial)
    assert 0 < sum(robust) < 6


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_bare_package_crashes_with_few_classes(classes: int) -> None:
    model, images, labels = example(classes)
    with pytest.raises(IndexError):
        pyautoattack.AutoAttack(model, eps=EPS[classes] / 255, seed=0).run_standard_evaluation(
            images, labels, batch_size=6
        )


@pytest.mark.parametrize("classes", sorted(EPS))
def test_a_plain_model_gets_no_flag_and_its_images_stay_in_the_ball(classes: int) -> None:
    _, images, _ = example(classes)
    result = ours(classes)
    assert result.flags == frozenset()
    assert result.eps == EPS[classes] / 255
    assert (result.images - images).abs().max() <= EPS[classes] / 255 + 1e-6
    assert result.images.min() >= 0
    assert result.images.max() <= 1


def test_robust_images_are_robust_to_each_attack_of_the_cascade_alone() -> None:
    model, images, labels = example(4)
    robust = {row for row, stands in enumerate(verdicts(model, ours(4).images, labels)) if stands}
    alone = {}
    for name in ("apgd-ce", "apgd-t", "fab-t", "square"):
        adversarial, _ = by_hand(model, 4, EPS[4], [name]).run_standard_evaluation(images, labels, batch_size=6)
        alone[name] = {row for row, stands in enumerate(verdicts(model, adversarial, labels)) if stands}
        assert robust <= alone[name], name
    # Where every attack alone leaves the same images, the cascade would prove nothing.
    assert any(robust < survivors for survivors in alone.values()), alone


def test_the_same_seed_gives_the_same_images_and_another_does_not() -> None:
    model, images, labels = example(2)
    assert torch.equal(run(model, images, labels, EPS[2]).images, ours(2).images)
    assert not torch.equal(run(model, images, labels, EPS[2], seed=1).images, ours(2).images)


@pytest.mark.parametrize("classes", [2, 3, 4, 9, 10, 12, 1000])
def test_standard_means_100_iterations_one_restart_and_5000_queries(classes: int) -> None:
    cascade = autoattack.build(nn.Identity(), classes, autoattack.Options(eps=2, seed=7))
    assert (cascade.apgd.n_iter, cascade.apgd_targeted.n_iter, cascade.fab.n_iter) == (100, 100, 100)
    assert (cascade.apgd.n_restarts, cascade.apgd_targeted.n_restarts, cascade.fab.n_restarts) == (1, 1, 1)
    assert (cascade.square.n_queries, cascade.square.n_restarts, cascade.square.rescale_schedule) == (5000, 1, False)
    assert {cascade.norm, cascade.apgd.norm, cascade.apgd_targeted.norm, cascade.fab.norm, cascade.square.norm} == {
        "Linf"
    }
    assert {cascade.epsilon, cascade.apgd.eps, cascade.apgd_targeted.eps, cascade.fab.eps, cascade.square.eps} == {
        2 / 255
    }
    assert cascade.seed == 7
    assert (cascade.apgd.eot_iter, cascade.apgd_targeted.eot_iter) == (1, 1)
    targets = min(9, classes - 1)
    assert (cascade.apgd_targeted.n_target_classes, cascade.fab.n_target_classes) == (targets, targets)
    assert cascade.attacks_to_run == {
        2: ["apgd-ce", "fab", "square"],
        3: ["apgd-ce", "apgd-dlr", "fab-t", "square"],
    }.get(classes, ["apgd-ce", "apgd-t", "fab-t", "square"])


def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer iterations, for tests whose models are broken in a few steps or never."""
    build = autoattack.build

    def quick(*arguments: object) -> pyautoattack.AutoAttack:
        cascade = build(*arguments)  # type: ignore[arg-type]
        cascade.apgd.n_iter = cascade.apgd_targeted.n_iter = 20
        cascade.fab.n_iter, cascade.square.n_queries = 5, 20
        return cascade

    monkeypatch.setattr(autoattack, "build", quick)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_exactly_the_images_whose_closed_form_margin_is_within_eps_are_found(
    monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    _quick(monkeypatch)
    model, images, labels, robust = clear_cut(classes, 8, 64)
    assert robust.float().mean() == 0.5
    assert verdicts(model, run(model, images, labels, 8).images, labels) == robust.tolist()


def test_verdicts_do_not_depend_on_how_images_are_put_into_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package draws its noise per batch, so pixels differ between the three; the verdicts must not, as long as no
    # image sits on the edge of its ball.
    _quick(monkeypatch)
    model, images, labels, robust = clear_cut(4, 8, 64)
    for size in (1, 7, 64):
        found = [run(model, images[list(rows)], labels[list(rows)], 8).images for rows in rows_of(64, size)]
        assert verdicts(model, torch.cat(found), labels) == robust.tolist(), size


def test_images_that_are_wrong_already_are_left_alone() -> None:
    model, images, labels = example(2)
    wrong = 1 - labels
    assert torch.equal(run(model, images, wrong, 8).images, images)


def test_a_softmax_model_is_flagged() -> None:
    model, images, labels = example(4)
    assert "probabilities" in run(Softmax(model), images, labels, 40).flags


def test_a_randomised_model_is_flagged() -> None:
    model, images, labels = example(4)
    assert "randomised" in run(Noisy(model), images, labels, 60).flags


def test_a_quantised_model_is_flagged_for_its_gradients_and_for_falling_to_square() -> None:
    model, images, labels = example(4)
    result = run(Quantised(model), images, labels, 30)
    assert {"zero_gradient", "square_beats_gradients"} <= result.flags


def test_a_model_that_differentiates_inside_is_flagged() -> None:
    model, images, labels = example(4)
    assert "dynamic" in run(Dynamic(model), images, labels, 60).flags


def test_a_plain_model_is_not_flagged_for_what_an_earlier_model_did() -> None:
    model, images, labels = example(4)
    run(Dynamic(model), images, labels, 60)
    assert run(model, images, labels, 60).flags == frozenset()


def test_warnings_become_flags_and_are_not_printed(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, images, labels = example(4)
    assert run(Softmax(model), images, labels, 40).flags
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == []


def test_the_input_is_not_changed() -> None:
    _, images, _ = example(2)
    assert not torch.equal(ours(2).images, images)
    assert torch.equal(images, images_of(6))
