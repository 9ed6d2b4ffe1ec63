"""ShrinkPad and its variants; no model is needed, for they only touch pixels."""

from typing import Any, cast

import pytest
import torch

from bench.config import parse
from bench.defenses import st
from bench.defenses.st import Options
from bench.errors import UserError
from bench.lvlm.defended import DefendedLvlm

VICTIM = DefendedLvlm(cast(Any, None))


def images(count: int, side: int = 32, seed: int = 1) -> torch.Tensor:
    drawn = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed))
    return drawn.float() / 255


def moved(shown: torch.Tensor, **options: Any) -> torch.Tensor:
    return st.load({}, VICTIM, Options(**options)).shown(shown, ["what?"] * len(shown))


def test_without_a_transformation_the_model_is_the_victim() -> None:
    assert st.load({}, VICTIM, Options(shrink=0)) is VICTIM
    assert st.load({}, VICTIM, Options(shrink=0, seed=7)) is VICTIM


def test_a_smaller_image_lies_on_black_and_not_always_at_one_place() -> None:
    white = torch.ones(200, 3, 32, 32)
    white[:, 0, 0, 0] = torch.arange(200) / 255  # or else all were one image
    places = set()
    for one in moved(white):
        rows, columns = (one[1] > 0).nonzero().T
        top, left = int(rows.min()), int(columns.min())
        places.add((top, left))
        expected = torch.zeros(32, 32)
        expected[top : top + 28, left : left + 28] = 1
        torch.testing.assert_close(one[1], expected, rtol=0, atol=1e-6)
    assert {top for top, _ in places} == {left for _, left in places} == set(range(5))
    assert len(places) == 25


def test_an_image_goes_where_it_goes_whatever_is_beside_it() -> None:
    shown = images(6)
    together = moved(shown, degrees=10, mirror=True)
    assert torch.equal(together, moved(shown, degrees=10, mirror=True))
    for row in range(6):
        assert torch.equal(together[row : row + 1], moved(shown[row : row + 1], degrees=10, mirror=True))
    assert not torch.equal(together, moved(shown, degrees=10, mirror=True, seed=1))
    assert together.shape == shown.shape
    assert 0 <= together.min() <= together.max() <= 1


def test_mirroring_is_by_chance_and_rotating_stays_within_its_bound() -> None:
    shown = images(40)
    mirrored = moved(shown, shrink=0, mirror=True)
    flips = [torch.equal(one, before.flip(-1)) for one, before in zip(mirrored, shown, strict=True)]
    kept = [torch.equal(one, before) for one, before in zip(mirrored, shown, strict=True)]
    assert kept == [not flip for flip in flips]
    assert 8 < sum(flips) < 32
    # What is next to the centre hardly moves in a small rotation, and does in a large one.
    disc = torch.zeros(1, 3, 32, 32)
    disc[..., 16, 28] = 1
    near, far = moved(disc, shrink=0, degrees=1.0), moved(disc, shrink=0, degrees=180.0)
    assert near[0, 0, 15:18, 27:30].sum() > 0.9
    assert far[0, 0, 15:18, 27:30].sum() < 0.1


def test_it_comes_before_what_earlier_defenses_do_to_the_pixels() -> None:
    shown = images(2)
    darker = DefendedLvlm(cast(Any, None), pixels=lambda seen: seen / 2)
    both = st.load({}, darker, Options()).shown(shown, ["", ""])
    assert torch.equal(both, moved(shown) / 2)


def test_wrong_options_are_told() -> None:
    for key, value in (("shrink", 1), ("degrees", -1), ("size", 3)):
        with pytest.raises(UserError, match=key):
            parse(Options, {key: value}, "suite.yaml: defenses.st.options")
