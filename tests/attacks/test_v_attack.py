"""V-Attack on models whose optimum is known, and on the mini CLIP's own values."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import v_attack
from bench.attacks.checked import run_attack
from bench.attacks.contract import Knowledge
from bench.clip.model import Base, load
from bench.clip.values import clip_view
from bench.datasets import world
from bench.evaluation.adversary import Mean

from .models import Patches, images_of, rows_of

SIDE, COUNT = 6, 12


LABELS = torch.tensor([[row % 4, (row + 1) % 4] for row in range(COUNT)])


def run(model: nn.Module, images: Tensor, labels: Tensor, rows: Any = None, **options: Any) -> Tensor:
    rows = range(len(images)) if rows is None else rows
    chosen = v_attack.Options(**({"steps": 12} | options))
    return run_attack(v_attack, model, images, labels, options=chosen, seeds=[7 + row for row in rows]).images


def gain(model: nn.Module, clean: Tensor, found: Tensor, labels: Tensor) -> Tensor:
    return v_attack.turned(model(found), labels, v_attack.shown_in(model(clean), labels))


def test_of_a_linear_model_the_patches_that_show_the_object_go_to_the_corner_and_no_other_moves() -> None:
    model, images = Patches(4), images_of(COUNT, SIDE, 0.2, 0.8)
    found = run(model, images, LABELS, eps=4)
    mask = v_attack.shown_in(model(images), LABELS)
    assert 0 < mask.float().mean() < 1
    for row, (shown, wanted) in enumerate(LABELS.tolist()):
        corner = (model.weight[wanted] - model.weight[shown]).sign().repeat(1, 2, 2) * 4 / 255
        inside = mask[row].reshape(2, 2).repeat_interleave(3, 0).repeat_interleave(3, 1)
        torch.testing.assert_close(found[row] - images[row], corner * inside, rtol=0, atol=1e-6)


def test_the_mask_holds_patches_more_like_the_word_than_half_way_between_least_and_most() -> None:
    cosines = torch.tensor([[[0.0, 9.0], [0.2, 0.0], [0.6, 0.0], [1.0, 0.0]]])
    assert v_attack.shown_in(cosines, torch.tensor([[0, 1]])).tolist() == [[False, False, True, True]]
    assert v_attack.shown_in(cosines, torch.tensor([[1, 0]])).tolist() == [[True, False, False, False]]


def test_the_gain_is_the_mean_over_all_patches_of_what_masked_ones_gained() -> None:
    cosines = torch.tensor([[[0.1, 0.5], [0.4, 0.2]]])
    labels = torch.tensor([[0, 1]])
    masks = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])
    assert [round(v_attack.turned(cosines, labels, mask).item(), 6) for mask in masks] == [0.2, 0.1]


@pytest.mark.parametrize("crop", [None, 0.75])
def test_larger_balls_and_more_steps_gain_more(crop: float | None) -> None:
    model, images = Patches(4), images_of(COUNT, SIDE)
    by_eps = [run(model, images, LABELS, eps=eps, crop=crop) for eps in (0, 2, 4, 8)]
    assert torch.equal(by_eps[0], images)
    gains = [gain(model, images, found, LABELS).mean().item() for found in by_eps]
    assert gains == sorted(gains)
    few = run(model, images, LABELS, eps=16, steps=3, crop=crop)
    assert gain(model, images, few, LABELS).mean() > gains[0]
    assert (
        gain(model, images, run(model, images, LABELS, eps=16, steps=25, crop=crop), LABELS).mean()
        > gain(model, images, few, LABELS).mean()
    )


@pytest.mark.parametrize("crop", [None, 0.5])
def test_batches_do_not_matter_and_the_global_random_stream_is_not_moved(crop: float | None) -> None:
    model, images = Patches(4).double(), images_of(COUNT, SIDE).double()
    state = torch.random.get_rng_state()
    results = [
        torch.cat(
            [run(model, images[list(rows)], LABELS[list(rows)], rows, crop=crop) for rows in rows_of(COUNT, size)]
        )
        for size in (1, 5, COUNT)
    ]
    for other in results[:2]:
        # Adam makes steps of one length of large gradients and of such as are little more than rounding.
        torch.testing.assert_close(other, results[2], rtol=0, atol=1e-7)
    assert torch.equal(state, torch.random.get_rng_state())


def test_cuts_keep_their_share_of_the_image_and_stay_inside_it() -> None:
    cuts = v_attack._cuts(0.5, 400, [1, 2])
    height, width, row, column = cuts.unbind(-1)
    assert cuts.shape == (2, 400, 4)
    assert ((row.abs() + height) <= 1 + 1e-6).all()
    assert ((column.abs() + width) <= 1 + 1e-6).all()
    ratio = (height / width)[(height < 1) & (width < 1)]
    assert 3 / 4 - 1e-4 <= ratio.min() < 0.8 < 1.2 < ratio.max() <= 4 / 3 + 1e-4
    assert 0.5 * 3 / 4 < (height * width).min() < 0.55
    assert not torch.equal(cuts[0], cuts[1])
    images = images_of(2, 8)
    whole = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(2, -1)
    torch.testing.assert_close(v_attack._cut(images, whole), images)
    corner = torch.tensor([[0.5, 0.5, -0.5, 0.5]]).expand(2, -1)
    upper_right = nn.functional.interpolate(images[:, :, :4, 4:], size=8, mode="bilinear", align_corners=False)
    torch.testing.assert_close(v_attack._cut(images, corner)[..., 1:-1, 1:-1], upper_right[..., 1:-1, 1:-1])


def test_several_surrogates_are_attacked_together_whatever_their_patches() -> None:
    models, images = (Patches(4), Patches(4, size=2, seed=1)), images_of(COUNT, SIDE)
    attacked = run_attack(
        v_attack, Mean(models), images, LABELS, options=v_attack.Options(steps=8), seeds=range(COUNT),
        knowledge=Knowledge(surrogates=models),
    )  # fmt: skip
    for model in models:
        assert (gain(model, images, attacked.images, LABELS) > gain(model, images, images, LABELS)).all()
    assert (attacked.forwards, attacked.backwards) == (2 * 9 * COUNT, 2 * 8 * COUNT)


def test_the_mini_clips_values_turn_from_what_is_shown_to_what_is_wanted() -> None:
    clip = load(Base(architecture="mini", weights="shipped"))
    scenes = [world.Scene(shape, shape % 8, shape % 6, 1) for shape in range(12)]
    drawn = [world.render(scene, world.Dice(77, row)) for row, scene in enumerate(scenes)]
    images = torch.stack([torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 for pixels in drawn])
    labels = torch.tensor([[row, (row + 5) % 12] for row in range(12)])
    view = clip_view(clip, world.SHAPES)
    found = run(view, images, labels, steps=40)
    before, after = view(images), view(found)
    mask = v_attack.shown_in(before, labels)
    rows, shown, wanted = torch.arange(12), *labels.unbind(1)
    leads = [(cosines[rows, :, wanted] - cosines[rows, :, shown])[mask].mean() for cosines in (before, after)]
    assert leads[0] < 0
    assert leads[1] > 0.1
    assert (gain(view, images, found, labels) > gain(view, images, images, labels)).all()
