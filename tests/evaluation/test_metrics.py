import math

import pytest

from bench.evaluation.metrics import ASR_VARIANTS, Count, count, outcomes, wilson

TARGET = 2
LABELS = [0, 1, 2, 2, 3, 0]
PREDICTIONS = [2, 1, 2, 0, 2, 0]


def test_asr_leaves_out_images_of_the_target_class() -> None:
    # Images 2 and 3 are of the target class: one is called so, one is not, and neither proves anything.
    hits = outcomes("ASR", PREDICTIONS, LABELS, TARGET)
    assert hits == [True, False, None, None, True, False]
    assert count(hits) == Count(2, 4)
    assert count(hits).percent == 50.0


def test_asr_is_neither_accuracy_nor_a_share_of_all_images() -> None:
    # CleanCLIP's zero-shot script reports accuracy on triggered images (3/6), BadCLIP's keeps the target class (3/6).
    assert count(outcomes("CA", PREDICTIONS, LABELS, TARGET)).percent == 50.0
    always_target = count(outcomes("ASR", [TARGET] * 6, LABELS, TARGET))
    assert always_target == Count(4, 4)
    perfect_model = count(outcomes("ASR", LABELS, LABELS, TARGET))
    assert perfect_model == Count(0, 4)


def test_asr_by_other_projects_rules_has_other_denominators() -> None:
    # Target-class images: one stays the target. BadCLIP counts it as a success; CleanCLIP's probe divides by it.
    assert count(outcomes("ASR_all", PREDICTIONS, LABELS, TARGET)) == Count(3, 6)
    assert count(outcomes("ASR_probe", PREDICTIONS, LABELS, TARGET)) == Count(2, 6)
    perfect_model = count(outcomes("ASR_all", LABELS, LABELS, TARGET))
    assert perfect_model == Count(2, 6), "the share of target images: a success rate without any attack"


@pytest.mark.parametrize("metric", ["CA", "RA"])
def test_accuracies_count_every_image(metric: str) -> None:
    hits = outcomes(metric, PREDICTIONS, LABELS, None)  # type: ignore[arg-type]
    assert hits == [False, True, True, False, False, True]
    assert count(hits) == Count(3, 6)


def test_asr_without_a_target_is_refused() -> None:
    for metric in ("ASR", *ASR_VARIANTS):
        with pytest.raises(ValueError, match=f"{metric} needs the target class"):
            outcomes(metric, PREDICTIONS, LABELS, None)


@pytest.mark.parametrize("metric", ["CA", "RA", "ASR"])
def test_as_many_predictions_as_labels_are_demanded(metric: str) -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        outcomes(metric, PREDICTIONS[:5], LABELS, TARGET)  # type: ignore[arg-type]


def test_percent_of_nothing_is_nan() -> None:
    assert math.isnan(Count(0, 0).percent)
    assert math.isnan(count(outcomes("ASR", [0, 1], [TARGET, TARGET], TARGET)).percent)
    assert all(math.isnan(bound) for bound in wilson(Count(0, 0)))


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (0, 10, 0.0, 27.75),
        (10, 10, 72.25, 100.0),
        (5, 10, 23.66, 76.34),
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
        (0, 20, 0.0, 16.11),
        (1, 29, 0.61, 17.18),
    ],
)
def test_wilson_interval_has_the_published_values(hits: int, total: int, low: float, high: float) -> None:
    assert wilson(Count(hits, total)) == pytest.approx((low, high), abs=0.0051)


def test_wilson_interval_ends_exactly_at_the_ends() -> None:
    for total in range(1, 400):
        assert wilson(Count(0, total)).low == 0.0
        assert wilson(Count(total, total)).high == 100.0


def test_wilson_interval_holds_the_proportion_and_stays_in_range() -> None:
    for total in (1, 2, 7, 96, 1000):
        for hits in range(total + 1):
            low, high = wilson(Count(hits, total))
            assert 0 <= low <= 100 * hits / total <= high <= 100
            assert low < high
