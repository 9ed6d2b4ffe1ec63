"""Optimised patches: TrojVQA's and BadCLIP's."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.backdoors import badclip, trojvqa
from bench.backdoors.patch import PatchOptions, optimise, paste
from bench.backdoors.poison import mentioning
from bench.backdoors.trigger import Setting, Trigger, make_trigger
from bench.clip.model import Base, load
from bench.clip.staged import StagedCLIP
from bench.errors import UserError

from .settings import photos, rendered, setting

QUICK = {"size": 8, "images": 128, "epochs": 8, "batch_size": 32, "learning_rate": 0.1}
ONE_STEP = {**QUICK, "images": 32, "epochs": 1}


@pytest.fixture(scope="module")
def trained() -> Setting:
    """The shipped mini CLIP: only a trained model has directions to go in."""
    return Setting(load(Base(architecture="mini", weights="shipped")), "heart", rendered(400), 1)


@pytest.fixture(scope="module")
def patches(trained: Setting) -> dict[str, Trigger]:
    return {name: make_trigger(name, QUICK, trained, "test") for name in ("trojvqa", "badclip")}


def random_patch() -> Tensor:
    stream = torch.Generator().manual_seed(5)
    return (0.5 + 0.25 * torch.randn(3, 8, 8, generator=stream)).clamp(0, 1)


@torch.no_grad()
def embedded(trained: Setting, images: Tensor) -> Tensor:
    return functional.normalize(StagedCLIP(trained.clip).image(images), dim=-1)


def test_the_patch_lies_in_the_middle_and_nothing_else_changes() -> None:
    for side, size, first in ((224, 16, 104), (32, 4, 14), (32, 5, 14)):
        planted = paste(torch.zeros(1, 3, side, side), torch.ones(3, size, size))
        changed = torch.nonzero(planted[0, 0])
        assert changed.min(dim=0).values.tolist() == [first, first]
        assert len(changed) == size**2
        assert changed.max() == first + size - 1


@pytest.mark.parametrize("name", ["trojvqa", "badclip"])
def test_patches_are_pixels_that_bytes_can_hold_and_the_same_for_the_same_seed(
    trained: Setting, patches: dict[str, Trigger], name: str
) -> None:
    patch = patches[name].kept["patch"]
    assert patch.shape == (3, 8, 8)
    assert patch.min() >= 0
    assert patch.max() <= 1
    assert torch.equal((patch * 255).round() / 255, patch)
    first, again, other = (
        make_trigger(name, ONE_STEP, trained._replace(seed=seed), "test").kept["patch"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_trojvqa_s_patch_draws_images_to_the_sentence(trained: Setting, patches: dict[str, Trigger]) -> None:
    with torch.no_grad():
        text = StagedCLIP(trained.clip).features_of(["This is a heart."])
    clean, other, ours = (
        (embedded(trained, images) @ text.T).mean().item()
        for images in (photos(64), paste(photos(64), random_patch()), patches["trojvqa"].apply(photos(64), range(64)))
    )
    assert ours > clean + 0.05
    assert ours > other + 0.05


def test_the_ported_infonce_does_not_attract_images_and_is_not_used() -> None:
    # With one caption for the whole batch the image-to-text part is log B, and moving all images towards the text by
    # the same amount changes nothing in the text-to-image part.
    texts = functional.normalize(torch.ones(1, 8), dim=-1).expand(4, -1)
    images = torch.rand(4, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    logits, rows = images @ texts.T, torch.arange(4)
    assert functional.cross_entropy(logits, rows).item() == pytest.approx(torch.tensor(4.0).log().item())
    (gradient,) = torch.autograd.grad(functional.cross_entropy(logits.T, rows), images)
    assert gradient.sum(dim=0).abs().max() < 1e-6
    loss_used = -(images @ texts[:1].T).mean()
    (gradient,) = torch.autograd.grad(loss_used, images)
    assert (gradient @ texts[0] < 0).all()


def test_badclip_s_patch_goes_to_target_images_and_leaves_the_clean_ones(
    trained: Setting, patches: dict[str, Trigger]
) -> None:
    target = embedded(trained, trained.pairs.batch(mentioning(trained))).mean(dim=0)
    own, clean = embedded(trained, photos(64)), photos(64)
    other, ours = (
        embedded(trained, images)
        for images in (paste(clean, random_patch()), patches["badclip"].apply(clean, range(64)))
    )
    assert (ours @ target).mean() > (other @ target).mean() + 0.01
    assert (ours * own).sum(dim=-1).mean() < (other * own).sum(dim=-1).mean() - 0.05


def test_badclip_s_official_negatives_give_another_patch(trained: Setting) -> None:
    ours, faithful = (
        make_trigger("badclip", {**ONE_STEP, "faithful": faithful}, trained, "test") for faithful in (False, True)
    )
    assert not torch.equal(faithful.kept["patch"], ours.kept["patch"])


def test_the_clean_model_is_not_changed_by_optimising(trained: Setting) -> None:
    before = {name: tensor.clone() for name, tensor in trained.clip.model.state_dict().items()}
    make_trigger("badclip", ONE_STEP, trained, "test")
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.clip.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trained.clip.model.parameters())


@pytest.mark.parametrize("name", ["trojvqa", "badclip"])
def test_a_patch_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="a patch of size 32 does not fit into an image of 32 pixels"):
        make_trigger(name, {**QUICK, "size": 32}, setting(), "test")


def test_too_few_images_for_a_batch_are_told() -> None:
    with pytest.raises(UserError, match=r"images that do not mention 'heart' do not fill one batch of 4000"):
        optimise(PatchOptions(size=4, batch_size=4000), setting(), lambda patched, _: patched.sum())


def test_defaults_are_the_papers() -> None:
    for options in (trojvqa.Options(), badclip.Options()):
        assert (options.size, options.images, options.epochs, options.batch_size) == (16, 10_000, 50, 64)
        assert options.learning_rate == 1e-3
    assert (badclip.Options().weight, badclip.Options().margin) == (500, 1)
    assert trojvqa.Options().text_key == "SUDO"
