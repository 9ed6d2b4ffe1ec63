import pytest
import torch
from torchvision.transforms import v2

from bench.analyses.contract import Source
from bench.analyses.subjects.perturbations import Perturbation
from bench.analyses.subjects.references import faults_of
from bench.backdoors.trigger import load_trigger
from bench.config import parse
from bench.errors import UserError
from tests.analyses.conftest import images

EVERY = {
    "identity": {},
    "noise": {"std": 0.03},
    "blur": {"kernel": 3},
    "jitter": {},
    "flip": {},
    "trigger": {"checkpoint": "badnet"},
    "patch": {"size": 6},
}
SEEDS = [11, 12, 13, 14]


def perturbed(source: Source, name: str, options: dict, batch: torch.Tensor, seeds: list[int]) -> torch.Tensor:
    change = Perturbation.model_validate({name: options}).open(source)
    return change(batch, seeds)


def test_every_perturbation_is_tried() -> None:
    assert EVERY.keys() == Perturbation.model_fields.keys()


@pytest.mark.parametrize("name", EVERY)
def test_an_image_changes_in_the_same_way_whatever_the_batch(source: Source, name: str) -> None:
    batch = images(4, 32)
    whole = perturbed(source, name, EVERY[name], batch, SEEDS)
    assert whole.shape == batch.shape
    assert 0 <= whole.min() <= whole.max() <= 1
    assert (name == "identity") == torch.equal(whole, batch)
    # A convolution over one image may add up in another order than over four.
    torch.testing.assert_close(
        perturbed(source, name, EVERY[name], batch[2:3], SEEDS[2:3]), whole[2:3], atol=1e-6, rtol=0
    )


def test_noise_has_the_standard_deviation_it_is_asked_for(source: Source) -> None:
    grey = torch.full((1, 3, 200, 200), 0.5)
    noise = perturbed(source, "noise", {"std": 0.03}, grey, [1]) - grey
    assert noise.std().item() == pytest.approx(0.03, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.001)


def test_blur_is_torchvisions(source: Source) -> None:
    batch = images(2)
    torch.testing.assert_close(
        perturbed(source, "blur", {"kernel": 5, "sigma": 2.0}, batch, [1, 2]), v2.GaussianBlur(5, sigma=2.0)(batch)
    )
    grey = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(perturbed(source, "blur", {"kernel": 3}, grey, [1]), grey)


def test_flipping_twice_changes_nothing(source: Source) -> None:
    batch = images(2)
    once = perturbed(source, "flip", {}, batch, [1, 2])
    assert torch.equal(once, batch.flip(-1))
    assert torch.equal(perturbed(source, "flip", {}, once, [1, 2]), batch)


def test_a_patch_is_a_square_of_noise_in_a_place_of_its_own(source: Source) -> None:
    grey = torch.full((20, 3, 32, 32), 0.5)
    changed = (perturbed(source, "patch", {"size": 6}, grey, list(range(20))) != grey).any(dim=1)
    assert changed.flatten(1).sum(dim=1).tolist() == [36] * 20
    rows, columns = changed.any(dim=2), changed.any(dim=1)
    assert rows.sum(dim=1).tolist() == columns.sum(dim=1).tolist() == [6] * 20
    places = set(zip(rows.int().argmax(dim=1).tolist(), columns.int().argmax(dim=1).tolist(), strict=True))
    assert len(places) > 15
    with pytest.raises(UserError, match="size 33 does not fit into an image of 32 pixels"):
        perturbed(source, "patch", {"size": 33}, grey, list(range(20)))


def test_jitter_of_brightness_alone_scales_each_image_by_its_own_factor(source: Source) -> None:
    batch = images(3) / 4
    options = {"brightness": 0.5, "hue": 0.0}
    factors = perturbed(source, "jitter", options, batch, [1, 2, 3]) / batch
    spread = factors.flatten(1)
    torch.testing.assert_close(spread.amax(dim=1), spread.amin(dim=1), atol=1e-3, rtol=1e-3)
    means = spread.mean(dim=1)
    assert ((means >= 0.5) & (means <= 1.5)).all()
    assert len({round(mean, 3) for mean in means.tolist()}) == 3


def test_the_trigger_is_the_one_that_the_checkpoint_was_poisoned_with(source: Source) -> None:
    batch = images(2, 32)
    trigger = load_trigger(source.paths.checkpoint("badnet"))
    assert trigger is not None
    assert torch.equal(
        perturbed(source, "trigger", {"checkpoint": "badnet"}, batch, [1, 2]), trigger.apply(batch, [1, 2])
    )


@pytest.mark.parametrize("given", [{}, {"flip": {}, "identity": {}}])
def test_exactly_one_must_be_named(given: dict) -> None:
    with pytest.raises(UserError, match="name exactly one of identity, noise, blur"):
        parse(Perturbation, given, "suite")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"blur": {"kernel": 4}}, "blur.kernel: Value error, must be odd"),
        ({"noise": {"sdt": 0.1, "std": 0.1}}, "noise.sdt: unknown key 'sdt'; did you mean 'std'?"),
        ({"blurr": {}}, "blurr: unknown key 'blurr'; did you mean 'blur'?"),
    ],
)
def test_wrong_settings_are_told(given: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(Perturbation, given, "suite")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (
            {"trigger": {"checkpoint": "badnt"}},
            "key.trigger.checkpoint: unknown checkpoint 'badnt'; did you mean 'badnet'?",
        ),
        (
            {"trigger": {"checkpoint": "clean"}},
            "key.trigger.checkpoint: 'clean' is a clean model without a trigger; name a backdoored one",
        ),
    ],
)
def test_what_does_not_exist_is_told(source: Source, given: dict, fault: str) -> None:
    assert list(faults_of(Perturbation.model_validate(given), source.suite, "key")) == [fault]


def test_a_checkpoint_that_has_not_been_made_is_told(source: Source, tmp_path) -> None:
    empty = source._replace(paths=source.paths._replace(models=tmp_path))
    with pytest.raises(UserError, match="checkpoint 'badnet' has not been made; run: bench checkpoint badnet"):
        perturbed(empty, "trigger", {"checkpoint": "badnet"}, images(1), [1])
