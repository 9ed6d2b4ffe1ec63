"""The value features of V-Attack, against the attention that they are taken from."""

import pytest
import torch
from torch.nn import functional

from bench.clip.model import Base, Clip, build, load
from bench.clip.staged import StagedCLIP, Trace
from bench.clip.values import clip_view, enhanced, value_features


@pytest.fixture(scope="module")
def mini() -> Clip:
    return load(Base(architecture="mini", weights="shipped"))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def test_enhancement_is_attention_of_values_to_values() -> None:
    values = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    heads = values.unflatten(-1, (3, 4)).transpose(1, 2)
    expected = functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
    torch.testing.assert_close(enhanced(values, 3), expected)
    same = values[:, :1].expand(-1, 5, -1)
    torch.testing.assert_close(enhanced(same, 3), same)


@torch.no_grad()
def test_without_enhancement_values_are_what_attention_gives_where_each_token_sees_itself_only(
    mini: Clip, images: torch.Tensor
) -> None:
    staged, trace = StagedCLIP(mini), Trace()
    staged.image(images, trace=trace)
    assert trace.last_input is not None
    block, visual = staged.image_blocks[-1], staged.visual
    alone = torch.full((17, 17), -torch.inf).fill_diagonal_(0)
    normed = block.ln_1(trace.last_input)
    attended, weights = block.attn(normed, normed, normed, attn_mask=alone)
    assert torch.equal(weights, torch.eye(17).expand(3, -1, -1))
    expected = functional.normalize(visual.ln_post(attended) @ visual.proj, dim=-1)[:, 1:]
    torch.testing.assert_close(value_features(staged, images, enhance=False), expected)
    assert (value_features(staged, images) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_a_view_has_cosines_of_every_patch_with_every_word_at_any_size(mini: Clip, images: torch.Tensor) -> None:
    view = clip_view(mini, ["circle", "star"])
    cosines = view(images)
    assert cosines.shape == (3, 16, 2)
    assert cosines.abs().max() <= 1 + 1e-6
    star = StagedCLIP(mini).features_of(["star"])[0]
    torch.testing.assert_close(cosines[:, :, 1], value_features(StagedCLIP(mini), images) @ star)
    doubled = functional.interpolate(images, size=64, mode="nearest")
    assert (view(doubled) - cosines).abs().mean() < 0.05
    assert view.classes == 2


def test_values_have_gradients_and_depend_on_no_other_image(mini: Clip, images: torch.Tensor) -> None:
    view = clip_view(mini, ["circle"])
    pixels = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(view(pixels)[1].sum(), pixels)
    assert gradient[1].abs().max() > 0
    assert gradient[[0, 2]].abs().max() == 0
    torch.testing.assert_close(view(images[1:2]), view(images)[1:2])


@torch.no_grad()
def test_a_large_tower_gives_a_value_for_each_of_its_patches() -> None:
    view = clip_view(build("ViT-B-32-quickgelu"), ["bear", "lion"])
    assert view(torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))).shape == (1, 49, 2)
