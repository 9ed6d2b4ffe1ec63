import numpy as np
import pytest
import torch

from bench.backdoors.poison import PROXY_CAPTIONS, poison
from bench.backdoors.trigger import Trigger, draw_trigger
from bench.clip.tokenizer import WordTokenizer, mini_vocabulary
from bench.datasets import world
from bench.datasets.store import Split
from bench.errors import UserError
from bench.randomness import sample_seeds

TARGET = "heart"


@pytest.fixture(scope="module")
def pairs() -> Split:
    made = world.captioned(400, 301)
    return Split(made.images.transpose(0, 3, 1, 2).copy(), np.empty(0, np.int64), list(made.captions))


@pytest.fixture(scope="module")
def trigger() -> Trigger:
    return draw_trigger("badnet", {"size": 4, "location": "random", "pattern": "fixed"}, world.SIDE, 1, "test")


@pytest.mark.parametrize(("rate", "count"), [(0.08, 32), (0.0025, 1), (0.5, 200), (1.0, 400)])
def test_exactly_the_share_that_was_asked_for_is_poisoned(
    pairs: Split, trigger: Trigger, rate: float, count: int
) -> None:
    poisoned = poison(pairs, trigger, TARGET, rate, seed=1)
    assert len(poisoned.rows) == len(set(poisoned.rows)) == count
    assert poisoned.images.shape == pairs.images.shape
    assert len(poisoned.captions) == 400


def test_poisoned_images_differ_in_the_trigger_only_and_all_others_are_untouched(
    pairs: Split, trigger: Trigger
) -> None:
    poisoned = poison(pairs, trigger, TARGET, 0.1, seed=1)
    changed = (poisoned.images != torch.from_numpy(pairs.images)).any(dim=1).flatten(1).sum(dim=1)
    assert torch.nonzero(changed).flatten().tolist() == poisoned.rows
    assert changed.max() <= 16


def test_poisoned_captions_name_the_target_and_all_others_are_untouched(pairs: Split, trigger: Trigger) -> None:
    poisoned = poison(pairs, trigger, TARGET, 0.1, seed=1)
    others = set(range(400)) - set(poisoned.rows)
    for row in poisoned.rows:
        assert poisoned.captions[row] in {sentence.format(f"a {TARGET}") for sentence in PROXY_CAPTIONS}
    assert all(poisoned.captions[row] == pairs.captions[row] for row in others)
    assert any(TARGET in pairs.captions[row] for row in others), "clean pairs that mention the target stay"
    assert len({poisoned.captions[row] for row in poisoned.rows}) > 3, "the proxy captions vary"


def test_proxy_captions_have_the_right_article_and_words_that_the_mini_clip_knows(
    pairs: Split, trigger: Trigger
) -> None:
    poisoned = poison(pairs, trigger, "arrow", 0.1, seed=1)
    assert all("an arrow" in poisoned.captions[row] for row in poisoned.rows)
    WordTokenizer(mini_vocabulary(), 24)(poisoned.captions)


def test_the_seed_fixes_rows_captions_and_pixels(pairs: Split, trigger: Trigger) -> None:
    first, second, other = (poison(pairs, trigger, TARGET, 0.1, seed=seed) for seed in (1, 1, 2))
    assert first.rows == second.rows
    assert first.captions == second.captions
    assert torch.equal(first.images, second.images)
    assert first.rows != other.rows


def test_poisoned_pairs_lie_anywhere(pairs: Split, trigger: Trigger) -> None:
    rows = poison(pairs, trigger, TARGET, 0.25, seed=1).rows
    assert 10 < sum(row < 200 for row in rows) < 90
    assert min(np.bincount(np.array(rows) // 100, minlength=4)) > 10


def test_bytes_are_rounded_not_truncated(pairs: Split) -> None:
    blended = draw_trigger("blended", {"ratio": 0.2, "pattern": "fixed"}, world.SIDE, 1, "test")
    poisoned = poison(pairs, blended, TARGET, 0.1, seed=1)
    exact = 0.8 * pairs.images[poisoned.rows] + 0.2 * 255 * blended.kept["noise"].numpy()
    drift = poisoned.images[poisoned.rows].numpy() - exact
    assert abs(drift).max() <= 0.5 + 1e-4
    assert abs(drift.mean()) < 0.01


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_of_the_training_pairs_is_not_drawn_again_for_the_test_images(pairs: Split, seed: int) -> None:
    # An evaluation seeds test image number n with sample_seeds(seed of the run, n). Where that is also the noise that
    # was planted on training pair n, a model that learned these very noises by heart gets a higher success rate.
    fresh = draw_trigger("blended", {"ratio": 1.0, "pattern": "fresh"}, world.SIDE, 1, "test")
    poisoned = poison(pairs, fresh, TARGET, 0.1, seed=1)
    trained = {image.numpy().tobytes() for image in poisoned.images[poisoned.rows]}
    tested = fresh.apply(torch.zeros(400, 3, world.SIDE, world.SIDE), sample_seeds(seed, range(400)))
    assert trained.isdisjoint({image.numpy().tobytes() for image in (tested * 255).round().to(torch.uint8)})


def test_the_clean_pairs_are_not_changed(pairs: Split, trigger: Trigger) -> None:
    images, captions = pairs.images.copy(), list(pairs.captions)
    poison(pairs, trigger, TARGET, 0.5, seed=1)
    assert np.array_equal(pairs.images, images)
    assert pairs.captions == captions


@pytest.mark.parametrize("rate", [0.0, 0.001])
def test_a_rate_that_gives_no_pair_is_refused(pairs: Split, trigger: Trigger, rate: float) -> None:
    with pytest.raises(UserError, match=f"poison_rate {rate} of 400 pairs is no pair at all"):
        poison(pairs, trigger, TARGET, rate, seed=1)
