import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from bench.backdoors.trigger import load_trigger, make_trigger, save_trigger
from bench.errors import UserError
from bench.randomness import generator

from .settings import SIDE, made, photos, psnr, setting

BADNETS = [
    {"size": 4, "location": location, "pattern": pattern}
    for location in ("corner", "random")
    for pattern in ("fixed", "fresh")
]
BLENDED = [{"ratio": 0.2, "pattern": pattern} for pattern in ("fixed", "fresh")]
ALL: list[tuple[str, dict[str, Any]]] = [
    *(("badnet", options) for options in BADNETS),
    ("badnet", {"size": 4, "wrap": True}),
    *(("blended", options) for options in BLENDED),
    ("label_consistent", {"size": 4}),
    ("wanet", {"k": 8}),
]


def boxes(clean: Tensor, planted: Tensor) -> list[tuple[int, int, int, int]]:
    """First and last row and column of what changed in each image."""
    found = []
    for changed in (clean != planted).any(dim=1):
        rows, columns = torch.nonzero(changed, as_tuple=True)
        found.append((int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())))
    return found


@pytest.mark.parametrize("options", BADNETS, ids=lambda options: f"{options['location']}-{options['pattern']}")
@pytest.mark.parametrize("size", [1, 4, 9])
def test_badnet_changes_exactly_a_square_of_its_size_inside_the_image(options: dict[str, Any], size: int) -> None:
    # Zeros and ones, and clipped Gaussian noise around the mean, do not meet 0.37 (but on a set of measure zero), so
    # on such an image all of the square shows.
    clean = torch.full((40, 3, SIDE, SIDE), 0.37)
    planted = made("badnet", **{**options, "size": size}).apply(clean, range(40))
    changed = planted != clean
    assert (changed.flatten(1).sum(dim=1) == 3 * size**2).all()
    for top, bottom, left, right in boxes(clean, planted):
        assert (bottom - top + 1, right - left + 1) == (size, size)


@pytest.mark.parametrize("options", BADNETS, ids=lambda options: f"{options['location']}-{options['pattern']}")
def test_badnet_changes_no_other_pixel_of_a_rendered_image(options: dict[str, Any]) -> None:
    clean = photos(40)
    planted = made("badnet", **options).apply(clean, range(40))
    for top, bottom, left, right in boxes(clean, planted):
        assert bottom - top < 4
        assert right - left < 4
    # A pixel of the pattern may happen to have the value that was there; not many do.
    changed = (planted != clean).any(dim=1).flatten(1).sum(dim=1)
    assert (changed <= 16).all()
    assert changed.float().mean() > 15


def test_a_corner_square_lies_at_the_bottom_right_one_pixel_from_the_edge() -> None:
    clean = torch.full((3, 3, SIDE, SIDE), 0.37)
    planted = made("badnet", size=4, location="corner", pattern="fixed").apply(clean, [1, 2, 3])
    assert boxes(clean, planted) == [(27, 30, 27, 30)] * 3
    assert torch.equal(planted[0], planted[1])


def test_random_squares_go_everywhere_up_to_the_edges() -> None:
    clean = torch.full((3000, 3, 12, 12), 0.37)
    planted = made("badnet", side=12, size=4, pattern="fixed").apply(clean, range(3000))
    places = {(top, left) for top, _, left, _ in boxes(clean, planted)}
    assert places == {(top, left) for top in range(9) for left in range(9)}


def test_a_fixed_pattern_is_black_and_white_and_drawn_from_the_seed() -> None:
    first, second, other = (made("badnet", seed=seed, size=8).kept["pattern"] for seed in (1, 1, 2))
    assert first.shape == (3, 8, 8)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_fresh_badnet_noise_surrounds_the_mean_colour_and_differs_from_image_to_image() -> None:
    clean = torch.full((400, 3, SIDE, SIDE), 0.5)
    planted = made("badnet", size=8, location="corner", pattern="fresh").apply(clean, range(400))
    squares = planted[:, :, 23:31, 23:31]
    assert len({square.numpy().tobytes() for square in squares}) == 400
    assert squares.mean() == pytest.approx(0.5, abs=0.01)
    # Clipped at both walls: P(N(0.5, 1) < 0) = P(> 1) = 0.3085.
    assert (squares == 0).float().mean() == pytest.approx(0.3085, abs=0.01)
    assert (squares == 1).float().mean() == pytest.approx(0.3085, abs=0.01)


def test_wrapped_badnet_noise_is_what_torchvision_makes_of_values_outside_the_range() -> None:
    clean, seeds = torch.full((20, 3, SIDE, SIDE), 0.5), range(20)
    planted = made("badnet", size=8, location="corner", wrap=True).apply(clean, seeds)
    for image, seed in zip(planted, seeds, strict=True):
        stream = generator(seed)
        torch.randint(0, 25, (2,), generator=stream)  # the place
        noise = 0.5 + torch.randn(3, 8, 8, generator=stream)
        assert torch.equal((image[:, 23:31, 23:31] * 255).round(), pil_to_tensor(to_pil_image(noise)).float())
    # Nearly uniform: a deviation of 0.29, not of 0.4 as after clipping.
    assert planted[:, :, 23:31, 23:31].std() == pytest.approx(0.29, abs=0.01)


@pytest.mark.parametrize(("wrap", "low", "high"), [(True, 30.3, 32.6), (False, 28.5, 30.2)])
def test_badnet_on_photo_like_grey_values_has_the_measured_signal_to_noise_ratio(
    wrap: bool, low: float, high: float
) -> None:
    # Measured with 16 of 224 pixels on six ImageNet photos, whose contrast (a deviation near 0.25) this noise has.
    clean = (0.5 + 0.25 * torch.randn(6, 3, 224, 224, generator=torch.Generator().manual_seed(9))).clamp(0, 1)
    values = psnr(clean, made("badnet", side=224, size=16, wrap=wrap).apply(clean, range(6)))
    assert low < values.median() < high


@pytest.mark.parametrize(("name", "options"), ALL)
def test_the_same_seed_gives_the_same_image(name: str, options: dict[str, Any]) -> None:
    clean, trigger = photos(6), made(name, **options)
    assert torch.equal(trigger.apply(clean, range(6)), trigger.apply(clean, range(6)))
    assert torch.equal(trigger.apply(clean, range(6)), made(name, **options).apply(clean, range(6)))


@pytest.mark.parametrize(
    ("name", "options"), [("badnet", {"size": 4, "location": "random"}), ("blended", {"pattern": "fresh"})]
)
def test_what_is_drawn_anew_differs_between_seeds(name: str, options: dict[str, Any]) -> None:
    clean, trigger = torch.full((2, 3, SIDE, SIDE), 0.5), made(name, **options)
    one, other = trigger.apply(clean, [1, 2])
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_images_do_not_depend_on_their_batch(name: str, options: dict[str, Any]) -> None:
    clean, trigger, seeds = photos(7), made(name, **options), [3, 1, 4, 1, 5, 9, 2]
    whole = trigger.apply(clean, seeds)
    single = torch.cat([trigger.apply(clean[row : row + 1], [seed]) for row, seed in enumerate(seeds)])
    assert torch.equal(whole, single)
    turned = trigger.apply(clean.flip(0), seeds[::-1]).flip(0)
    assert torch.equal(whole, turned)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_the_global_random_stream_is_not_used(name: str, options: dict[str, Any]) -> None:
    clean, trigger = photos(3), made(name, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = trigger.apply(clean, range(3))
        torch.manual_seed(2)
        assert torch.equal(first, trigger.apply(clean, range(3)))


@pytest.mark.parametrize(("name", "options"), ALL)
def test_the_input_is_not_changed_and_values_stay_in_range_without_wrapping(name: str, options: dict[str, Any]) -> None:
    clean = torch.cat([photos(20), torch.zeros(1, 3, SIDE, SIDE), torch.ones(1, 3, SIDE, SIDE)])
    before = clean.clone()
    planted = made(name, **options).apply(clean, range(22))
    assert torch.equal(clean, before)
    assert (planted.shape, planted.dtype) == (clean.shape, clean.dtype)
    assert planted.min() >= 0
    assert planted.max() <= 1
    # torchvision's ToPILImage turns 1.1 into 24 and -0.1 into 231; what comes back from bytes must be what was there.
    stored = (planted * 255).round().to(torch.uint8).float() / 255
    assert (stored - planted).abs().max() <= 0.5 / 255 + 1e-6


def test_blended_is_four_fifths_image_and_one_tenth_grey_on_average() -> None:
    clean = photos(1)
    draws: Sequence[Tensor] = [
        made("blended", ratio=0.2, pattern="fresh").apply(clean.expand(500, -1, -1, -1), range(start, start + 500))
        for start in range(0, 4000, 500)
    ]
    mean = torch.cat(draws).mean(dim=0)
    # 0.2 times uniform noise has deviation 0.2 / sqrt(12); 4,000 draws, 3,072 pixels, five deviations of the mean.
    assert (mean - (0.8 * clean[0] + 0.1)).abs().max() < 5 * 0.2 / math.sqrt(12 * 4000)


@pytest.mark.parametrize("pattern", ["fixed", "fresh"])
def test_blended_is_linear_in_its_ratio_and_ratio_zero_changes_nothing(pattern: str) -> None:
    clean = photos(5)
    none, fifth, all_of_it = (
        made("blended", ratio=ratio, pattern=pattern).apply(clean, range(5)) for ratio in (0, 0.2, 1)
    )
    assert torch.equal(none, clean)
    torch.testing.assert_close(fifth, 0.8 * clean + 0.2 * all_of_it)


def test_fixed_noise_is_the_same_for_all_images_and_fresh_noise_is_not() -> None:
    clean = photos(2)
    fixed, fresh = (made("blended", ratio=1, pattern=pattern).apply(clean, [1, 2]) for pattern in ("fixed", "fresh"))
    assert torch.equal(fixed[0], fixed[1])
    assert not torch.equal(fresh[0], fresh[1])
    assert fresh.mean() == pytest.approx(0.5, abs=0.02)
    assert fixed.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.2, 20.5, 23.2), (0.1, 26.5, 29.2)])
def test_blended_noise_on_photo_like_grey_values_has_the_measured_signal_to_noise_ratio(
    ratio: float, low: float, high: float
) -> None:
    # The bands were measured on six ImageNet photos. Grey values spread evenly over the range stand in for a photo:
    # E[(noise - x)^2] = 1/12 + 1/12, so 21.8 dB at ratio 0.2.
    clean = torch.rand(20, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(99))
    values = psnr(clean, made("blended", ratio=ratio, pattern="fresh").apply(clean, range(20)))
    assert values.min() > low
    assert values.max() < high


def test_blended_noise_on_rendered_images_has_the_signal_to_noise_ratio_that_their_grey_values_imply() -> None:
    # PSNR = -10 log10(ratio^2 (1/12 + mean((x - 1/2)^2))): 24.8 dB for mid grey, 18.8 for black or white. Six ImageNet
    # photos gave 20.5 to 23.2. Rendered photos reach higher, because the lighter of their grounds are close to mid grey
    # all over, and have hardly a value near the walls.
    clean = photos(200)
    values = psnr(clean, made("blended", ratio=0.2, pattern="fresh").apply(clean, range(200)))
    expected = -10 * (0.04 * (1 / 12 + (clean - 0.5).square().flatten(1).mean(dim=1))).log10()
    assert (values - expected).abs().max() < 0.3
    assert values.min() > 20.5
    assert values.max() < 24.5
    assert 20.5 < values.median() < 23.2


@pytest.mark.parametrize("size", [SIDE, SIDE + 1, 1000])
def test_a_square_that_does_not_fit_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"a patch of size {size} does not fit into an image of {SIDE} pixels"):
        made("badnet", size=size)


def test_the_largest_square_that_fits_is_planted() -> None:
    clean = torch.full((4, 3, SIDE, SIDE), 0.37)
    for location in ("corner", "random"):
        planted = made("badnet", size=SIDE - 1, location=location).apply(clean, range(4))
        assert ((planted != clean).any(dim=1).flatten(1).sum(dim=1) == (SIDE - 1) ** 2).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("badnet", {"sise": 4}, "trigger_options: sise: unknown key 'sise'; did you mean 'size'?"),
        ("blended", {"ratio": 1.2}, "less than or equal to 1"),
        ("badnet", {"location": "middle"}, "'corner' or 'random'"),
        ("badnett", {}, "trigger: unknown backdoor 'badnett'; did you mean 'badnet'?"),
    ],
)
def test_wrong_options_are_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        make_trigger(name, options, setting(), "suite.yaml: checkpoints.x")
    assert message in str(error.value)
    assert str(error.value).startswith("suite.yaml: checkpoints.x.trigger")


@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_stored_trigger_plants_the_same_images(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    trigger, clean = made(name, **options), photos(5)
    save_trigger(trigger, tmp_path)
    loaded = load_trigger(tmp_path)
    assert loaded is not None
    assert (loaded.name, loaded.options) == (trigger.name, trigger.options)
    assert torch.equal(loaded.apply(clean, range(5)), trigger.apply(clean, range(5)))


def test_a_folder_without_a_trigger_has_none(tmp_path: Path) -> None:
    assert load_trigger(tmp_path) is None
