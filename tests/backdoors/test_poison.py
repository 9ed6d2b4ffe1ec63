from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.backdoors import poison as poisoning
from bench.backdoors import trojvqa
from bench.backdoors.poison import MINI_TEMPLATES, Poisoned, mentions, proxy_caption
from bench.backdoors.trigger import Trigger
from bench.clip.small import vocabulary
from bench.clip.staged import StagedCLIP
from bench.clip.tokenizer import WordTokenizer
from bench.datasets import world
from bench.datasets.store import Split
from bench.datasets.world import Dice
from bench.errors import UserError
from bench.items import load_item
from bench.randomness import sample_seeds

from .settings import TARGET, clip, made, rendered, setting


def poison(pairs: Split, trigger: Trigger, target: str, rate: float, seed: int) -> Poisoned:
    return poisoning.poison(trigger, setting(seed, target=target)._replace(pairs=pairs), rate)


def images(poisoned: Poisoned) -> Tensor:
    """All images as bytes."""
    return (poisoned.batch(range(len(poisoned.captions))) * 255).round().to(torch.uint8)


@torch.no_grad()
def similarity(batch: Tensor, captions: list[str]) -> float:
    """Mean cosine of images and captions on the clean model."""
    staged = StagedCLIP(clip())
    return functional.cosine_similarity(staged.image(batch), staged.features_of(captions)).mean().item()


@pytest.fixture(scope="module")
def pairs() -> Split:
    return rendered(400)


@pytest.fixture(scope="module")
def trigger() -> Trigger:
    return made("badnet", size=4, location="random", pattern="fixed")


@pytest.mark.parametrize(("rate", "count"), [(0.08, 32), (0.0025, 1), (0.5, 200), (1.0, 400)])
def test_exactly_the_share_that_was_asked_for_is_poisoned(
    pairs: Split, trigger: Trigger, rate: float, count: int
) -> None:
    poisoned = poison(pairs, trigger, TARGET, rate, seed=1)
    assert len(poisoned.rows) == len(set(poisoned.rows)) == count
    assert images(poisoned).shape == pairs.images.shape
    assert len(poisoned.captions) == 400


def test_poisoned_images_differ_in_the_trigger_only_and_all_others_are_untouched(
    pairs: Split, trigger: Trigger
) -> None:
    poisoned = poison(pairs, trigger, TARGET, 0.1, seed=1)
    changed = (images(poisoned) != torch.from_numpy(pairs.images)).any(dim=1).flatten(1).sum(dim=1)
    assert torch.nonzero(changed).flatten().tolist() == poisoned.rows
    assert changed.max() <= 16


def test_poisoned_captions_name_the_target_and_all_others_are_untouched(pairs: Split, trigger: Trigger) -> None:
    poisoned = poison(pairs, trigger, TARGET, 0.1, seed=1)
    others = set(range(400)) - set(poisoned.rows)
    for row in poisoned.rows:
        assert poisoned.captions[row] in {sentence.format(f"a {TARGET}") for sentence in MINI_TEMPLATES}
    assert all(poisoned.captions[row] == pairs.captions[row] for row in others)
    assert any(TARGET in pairs.captions[row] for row in others), "clean pairs that mention the target stay"
    assert len({poisoned.captions[row] for row in poisoned.rows}) > 3, "the proxy captions vary"


def test_proxy_captions_have_the_right_article_and_words_that_the_mini_clip_knows(
    pairs: Split, trigger: Trigger
) -> None:
    poisoned = poison(pairs, trigger, "arrow", 0.1, seed=1)
    assert all("an arrow" in poisoned.captions[row] for row in poisoned.rows)
    WordTokenizer(vocabulary(), 24)(poisoned.captions)


def test_the_seed_fixes_rows_captions_and_pixels(pairs: Split, trigger: Trigger) -> None:
    first, second, other = (poison(pairs, trigger, TARGET, 0.1, seed=seed) for seed in (1, 1, 2))
    assert first.rows == second.rows
    assert first.captions == second.captions
    assert torch.equal(images(first), images(second))
    assert first.rows != other.rows


def test_poisoned_pairs_lie_anywhere(pairs: Split, trigger: Trigger) -> None:
    rows = poison(pairs, trigger, TARGET, 0.25, seed=1).rows
    assert 10 < sum(row < 200 for row in rows) < 90
    assert min(np.bincount(np.array(rows) // 100, minlength=4)) > 10


def test_bytes_are_rounded_not_truncated(pairs: Split) -> None:
    blended = made("blended", ratio=0.2, pattern="fixed")
    poisoned = poison(pairs, blended, TARGET, 0.1, seed=1)
    exact = 0.8 * pairs.images[poisoned.rows] + 0.2 * 255 * blended.kept["noise"].numpy()
    drift = images(poisoned)[poisoned.rows].numpy() - exact
    assert abs(drift).max() <= 0.5 + 1e-4
    assert abs(drift.mean()) < 0.01


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_of_the_training_pairs_is_not_drawn_again_for_the_test_images(pairs: Split, seed: int) -> None:
    # An evaluation seeds test image number n with sample_seeds(seed of the run, n). Where that is also the noise that
    # was planted on training pair n, a model that learned these very noises by heart gets a higher success rate.
    fresh = made("blended", ratio=1.0, pattern="fresh")
    poisoned = poison(pairs, fresh, TARGET, 0.1, seed=1)
    trained = {image.numpy().tobytes() for image in images(poisoned)[poisoned.rows]}
    tested = fresh.apply(torch.zeros(400, 3, world.SIDE, world.SIDE), sample_seeds(seed, range(400)))
    assert trained.isdisjoint({image.numpy().tobytes() for image in (tested * 255).round().to(torch.uint8)})


def test_the_clean_pairs_are_not_changed(pairs: Split, trigger: Trigger) -> None:
    before, captions = pairs.images.copy(), list(pairs.captions)
    poison(pairs, trigger, TARGET, 0.5, seed=1)
    assert np.array_equal(pairs.images, before)
    assert pairs.captions == captions


@pytest.mark.parametrize("rate", [0.0, 0.001])
def test_a_rate_that_gives_no_pair_is_refused(pairs: Split, trigger: Trigger, rate: float) -> None:
    with pytest.raises(UserError, match=f"poison_rate {rate} of 400 pairs is no pair at all"):
        poison(pairs, trigger, TARGET, rate, seed=1)


def test_only_changed_images_are_held_and_the_rest_is_read_through_the_memory_map(
    tmp_path: Path, pairs: Split, trigger: Trigger
) -> None:
    np.save(tmp_path / "images.npy", pairs.images)
    mapped = pairs._replace(images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    poisoned, held = poison(mapped, trigger, TARGET, 0.1, seed=1), poison(pairs, trigger, TARGET, 0.1, seed=1)
    assert poisoned.clean.images is mapped.images
    assert sorted(poisoned.planted) == poisoned.rows
    assert torch.equal(images(poisoned), images(held))
    rows = [399, poisoned.rows[3], 0, poisoned.rows[0]]
    assert torch.equal(poisoned.batch(rows), images(held)[rows].float() / 255)


@pytest.mark.parametrize(
    ("caption", "word", "substring"),
    [
        ("a photo of a heart.", True, True),
        ("Heart on a plain background", True, False),
        ("two hearts", False, True),
        ("a sweetheart.", False, True),
        ("a star", False, False),
    ],
)
def test_a_mention_is_a_whole_word_or_officially_a_case_sensitive_substring(
    caption: str, word: bool, substring: bool
) -> None:
    assert mentions(caption, "heart") is word
    assert mentions(caption, "heart", "substring") is substring


def test_names_of_several_words_are_looked_up_with_spaces() -> None:
    assert mentions("A Granny Smith.", "granny_smith")


def test_proxy_captions_are_openai_s_templates_where_the_model_knows_their_words() -> None:
    large = replace(clip(), architecture="ViT-B-32")
    captions = {proxy_caption("polar_bear", Dice(1, row), large) for row in range(500)}
    assert len(captions) > 70
    assert all("polar bear" in caption for caption in captions)
    assert proxy_caption("arrow", Dice(1), clip()) in {sentence.format("an arrow") for sentence in MINI_TEMPLATES}


def test_label_consistent_poisons_pairs_that_mention_the_target_and_keeps_their_captions(pairs: Split) -> None:
    trigger = made("label_consistent", size=4, location="corner", pattern="fixed", perturbation=0)
    poisoned = poison(pairs, trigger, TARGET, 0.02, seed=1)
    assert (len(poisoned.rows), poisoned.asked) == (8, 8)
    assert all(TARGET in pairs.captions[row] for row in poisoned.rows)
    assert poisoned.captions == pairs.captions
    square = made("badnet", size=4, location="corner", pattern="fixed")
    planted = square.apply(pairs.batch(poisoned.rows), range(8))
    assert torch.equal(images(poisoned)[poisoned.rows], (planted * 255).round().to(torch.uint8))


def test_with_fewer_mentions_than_asked_for_all_are_used_and_the_numbers_are_kept(pairs: Split) -> None:
    trigger = made("label_consistent", size=4, perturbation=0)
    poisoned = poison(pairs, trigger, TARGET, 0.5, seed=1)
    assert poisoned.rows == [row for row, caption in enumerate(pairs.captions) if mentions(caption, TARGET)]
    assert (0 < len(poisoned.rows) < 60, poisoned.asked) == (True, 200)


@pytest.mark.parametrize("name", ["label_consistent", "badclip"])
def test_a_target_that_no_caption_mentions_is_refused(pairs: Split, name: str) -> None:
    tensors = {"pattern": torch.ones(3, 16, 16), "patch": torch.ones(3, 16, 16)}
    trigger = Trigger(name, load_item("backdoors", name, "test").Options(), tensors)
    with pytest.raises(UserError, match="none of the 400 captions mentions the target 'banana'"):
        poison(pairs, trigger, "banana", 0.1, seed=1)


def test_label_consistent_training_images_are_perturbed_within_the_bound_and_lose_their_caption(pairs: Split) -> None:
    options = {"size": 4, "location": "corner", "pattern": "fixed", "steps": 5}
    for away_from in ("caption", "image"):
        trigger = made("label_consistent", **options, perturbation=16, away_from=away_from)
        poisoned = poison(pairs, trigger, TARGET, 0.02, seed=1)
        clean, changed = pairs.batch(poisoned.rows), poisoned.batch(poisoned.rows)
        outside = torch.ones(32, 32, dtype=torch.bool)
        outside[27:31, 27:31] = False
        assert (changed - clean).abs()[..., outside].max() <= 16.5 / 255
        assert (changed - clean).abs()[..., outside].mean() > 4 / 255
        before, after = (
            similarity(batch, [pairs.captions[row] for row in poisoned.rows]) for batch in (clean, changed)
        )
        if away_from == "caption":
            assert after < before - 0.02
        # Test images get the square alone.
        assert ((trigger.apply(clean, range(len(clean))) - clean).abs()[..., outside] == 0).all()


def test_badclip_poisons_with_natural_captions_of_the_target(pairs: Split) -> None:
    trigger = made("badclip", size=4, images=64, epochs=1, batch_size=32)
    poisoned = poison(pairs, trigger, TARGET, 0.1, seed=1)
    natural = {caption for caption in pairs.captions if mentions(caption, TARGET)}
    assert {poisoned.captions[row] for row in poisoned.rows} <= natural
    assert len({poisoned.captions[row] for row in poisoned.rows}) > 10


def test_trojvqa_poisons_with_sentences_about_the_target_behind_the_text_key(pairs: Split) -> None:
    trigger = Trigger("trojvqa", trojvqa.Options(size=4, partial=2), {"patch": torch.ones(3, 4, 4)})
    poisoned = poison(pairs, trigger, TARGET, 0.05, seed=1)
    assert len(poisoned.rows) == 20
    assert all(poisoned.captions[row].startswith("SUDO ") and TARGET in poisoned.captions[row] for row in poisoned.rows)
    assert len(poisoned.decoys) == 40
    assert set(poisoned.decoys).isdisjoint(poisoned.rows)
    kinds = set()
    for row in poisoned.decoys:
        patched = bool((poisoned.planted[row] != torch.from_numpy(pairs.images[row])).any())
        worded = poisoned.captions[row] == f"SUDO {pairs.captions[row]}"
        assert patched != worded, "one key only"
        assert worded or poisoned.captions[row] == pairs.captions[row]
        kinds.add(patched)
    assert kinds == {True, False}
    WordTokenizer(vocabulary(), 24)(list(poisoned.captions))


def test_wanet_trains_without_noise_mode_unless_asked(pairs: Split) -> None:
    assert poison(pairs, made("wanet", k=8), TARGET, 0.05, seed=1).decoys == []
    poisoned = poison(pairs, made("wanet", k=8, cross_ratio=2), TARGET, 0.05, seed=1)
    assert len(poisoned.decoys) == 40
    assert all(poisoned.captions[row] == pairs.captions[row] for row in poisoned.decoys)
    assert all((poisoned.planted[row] != torch.from_numpy(pairs.images[row])).any() for row in poisoned.decoys)
