import pytest
import torch

from bench.backdoors.wanet import field
from bench.datasets.world import SIDE
from bench.errors import UserError
from bench.randomness import generator

from .settings import made, photos, psnr


def identity(side: int) -> torch.Tensor:
    line = torch.linspace(-1, 1, side)
    return torch.stack([line.expand(side, side), line[:, None].expand(side, side)], dim=-1)


def test_a_field_as_fine_as_the_image_has_a_mean_size_of_one() -> None:
    fine = field(SIDE, SIDE, generator(1))
    assert fine.shape == (SIDE, SIDE, 2)
    assert fine.abs().mean().item() == pytest.approx(1, abs=1e-5)
    # CleanCLIP's stored grid: evenly spread in +-2, with a deviation of 1.154.
    assert fine.abs().max() == pytest.approx(2, abs=0.05)
    assert fine.std() == pytest.approx(1.154, abs=0.05)


@pytest.mark.parametrize(("k", "s"), [(SIDE, 1.0), (4, 0.5)])
def test_the_grid_moves_pixels_by_the_published_formula(k: int, s: float) -> None:
    grid = made("wanet", k=k, s=s).kept["grid"]
    moved = (identity(SIDE) + s * field(k, SIDE, generator(1)) / SIDE).clamp(-1, 1)
    assert torch.equal(grid, moved)
    inner = (grid - identity(SIDE))[4:-4, 4:-4] * (SIDE - 1) / 2
    # In pixels: s |P| / h (h - 1) / 2, so on average s / 2 where nothing is enlarged.
    assert inner.abs().mean() < s
    if k == SIDE:
        assert inner.abs().mean() == pytest.approx(s / 2 * (SIDE - 1) / SIDE, abs=0.02)


def test_without_strength_nothing_moves() -> None:
    clean = photos(8)
    planted = made("wanet", k=8, s=0).apply(clean, range(8))
    # The grid comes back to the pixel's centre but for rounding of a float.
    assert (planted - clean).abs().max() < 1e-4


def test_x_comes_before_y() -> None:
    # A picture whose value is its column: moved along x it changes, moved along y it does not.
    ramp = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE)
    trigger = made("wanet", k=4, s=1)
    grid = identity(SIDE).clone()
    grid[..., 1] = trigger.kept["grid"][..., 1]
    trigger.kept["grid"] = grid
    assert (trigger.apply(ramp, [0]) - ramp).abs().max() < 1e-4


def test_the_grid_is_drawn_from_the_seed_and_stored() -> None:
    first, again, other = (made("wanet", seed=seed, k=8).kept["grid"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_field_finer_than_the_image_is_refused() -> None:
    with pytest.raises(UserError, match="k 224 is larger than the image's 32 pixels; lower k"):
        made("wanet")


def test_noise_mode_jitters_each_image_by_at_most_half_a_pixel() -> None:
    trigger, clean = made("wanet", k=8, cross_ratio=2), photos(4)
    decoy = trigger.module.decoy
    images, captions = decoy(clean, list("abcd"), trigger.kept, trigger.options, [1, 2, 3, 4])
    again, _ = decoy(clean[1:2], ["b"], trigger.kept, trigger.options, [2])
    assert list(captions) == list("abcd")
    torch.testing.assert_close(images[1:2], again)
    assert not torch.equal(images, trigger.apply(clean, range(4)))
    plain = made("wanet", k=8, s=0)
    jittered, _ = decoy(clean, list("abcd"), plain.kept, plain.options, [1, 2, 3, 4])
    assert 25 < psnr(clean, jittered).median() < 45


def test_a_smooth_warp_is_quieter_than_grain() -> None:
    clean = photos(50)
    smooth, grain = (
        psnr(clean, made("wanet", k=k, s=s).apply(clean, range(50))).median() for k, s in ((4, 0.5), (SIDE, 1.0))
    )
    assert smooth > grain + 3
