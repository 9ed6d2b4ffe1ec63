import numpy as np
import pytest

from bench.datasets.sampling import even_sample, few_shot, spread
from bench.errors import UserError

# 7 classes in a mixed order, one of them rare.
LABELS = np.array([row * row % 7 if row % 50 else 6 for row in range(300)])
CLASSES, COUNTS = np.unique(LABELS, return_counts=True)


@pytest.mark.parametrize("size", [1, 5, 12, 24])
def test_an_even_sample_has_as_many_images_of_each_class_give_or_take_one(size: int) -> None:
    rows = even_sample(LABELS, size)
    assert len(set(rows.tolist())) == size
    counts = [np.sum(LABELS[rows] == label) for label in CLASSES]
    assert max(counts) - min(counts) <= 1


def test_where_a_class_runs_out_the_others_fill_up() -> None:
    rows = even_sample(LABELS, 60)
    counts = np.array([np.sum(LABELS[rows] == label) for label in CLASSES])
    short = counts == COUNTS
    assert short.any()
    assert counts.sum() == 60
    assert counts[~short].max() - counts[~short].min() <= 1


def test_an_even_sample_takes_the_first_images_of_each_class() -> None:
    rows = even_sample(LABELS, 12)
    for label in CLASSES:
        taken = rows[LABELS[rows] == label]
        assert taken.tolist() == np.flatnonzero(label == LABELS)[: len(taken)].tolist()


def test_an_even_sample_is_stable_and_a_smaller_one_is_part_of_it() -> None:
    assert even_sample(LABELS, 20).tolist() == even_sample(LABELS.copy(), 20).tolist()
    assert set(even_sample(LABELS, 9)) < set(even_sample(LABELS, 20)) < set(even_sample(LABELS, 290))


@pytest.mark.parametrize("size", [None, 300, 1000])
def test_no_size_or_a_large_one_takes_everything_in_order(size: int | None) -> None:
    assert even_sample(LABELS, size).tolist() == list(range(300))


def test_rows_are_in_ascending_order() -> None:
    for rows in (even_sample(LABELS, 31), few_shot(LABELS, 3, 1)):
        assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("shots", [1, 4])
def test_few_shot_takes_so_many_images_of_every_class(shots: int) -> None:
    rows = few_shot(LABELS, shots, seed=1)
    assert len(set(rows.tolist())) == len(rows)
    assert [np.sum(LABELS[rows] == label) for label in CLASSES] == [shots] * len(CLASSES)


def test_few_shot_seeds_differ_and_repeat() -> None:
    draws = [few_shot(LABELS, 4, seed).tolist() for seed in (1, 2, 3, 1)]
    assert draws[0] == draws[3]
    assert draws[0] != draws[1] != draws[2] != draws[0]


def test_few_shot_draws_from_all_images_of_a_class() -> None:
    drawn = {row for seed in range(100) for row in few_shot(LABELS, 4, seed).tolist()}
    assert len(drawn) > 0.95 * len(LABELS)


def test_too_few_images_are_refused_and_the_class_is_named() -> None:
    rare = int(COUNTS.min())
    with pytest.raises(
        UserError, match=f"{rare + 1} shots per class are asked, but class {CLASSES[COUNTS.argmin()]} has {rare}"
    ):
        few_shot(LABELS, rare + 1, seed=1)
    few_shot(LABELS, rare, seed=1)


def test_places_are_spread_evenly_and_those_between_are_others() -> None:
    assert spread(10, None) == spread(10, 12) == list(range(10))
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(10, 4, between=True) == [1, 3, 6, 8]
    assert not set(spread(214_354, 256)) & set(spread(214_354, 256, between=True))
