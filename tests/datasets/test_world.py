import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from bench.datasets import scenes, world
from bench.datasets.store import build, open_split
from bench.datasets.world import BACKGROUNDS, COLOURS, SHAPES, SIDE, SIZES, Dice, Scene

STYLES: tuple[world.Style, ...] = ("photo", "sketch", "unseen", "noise")
# sha256 over the first 50 images of stream 7, and over their captions. They must never change: published pixels,
# pretrained weights and results hang on them.
GOLDEN_IMAGES = {
    "photo": "677a43f8495a8d4d386403229d499f4c9edd918a5e1a7151d220e73fa27126ca",
    "sketch": "6f1474f280e2138c8029fcc212a784479b7afa66a84f75a9be76102d6df7a35b",
    "unseen": "48f0522ce8a15375bb4d1d8b3cdeeaecb5d7e71341181cf672e99694734474e3",
    "noise": "b46c3d8bbb39705a26cb6bedc1f18614b90013b5a69f10c9439bbf8b7093de2e",
}
GOLDEN_CAPTIONS = "9f37374f6b5acaa6a8be6b80c095457e99b4cb6d2c93e058397fd365596653f2"


def stream(style: world.Style) -> bytes:
    dice = [Dice(7, row) for row in range(50)]
    return b"".join(world.render(world.random_scene(one), one, style).tobytes() for one in dice)


@pytest.mark.parametrize("style", STYLES)
def test_the_same_seed_gives_the_same_bytes_on_every_machine(style: world.Style) -> None:
    assert hashlib.sha256(stream(style)).hexdigest() == GOLDEN_IMAGES[style]


def test_captioned_pairs_are_the_photos_of_their_stream_with_fixed_captions() -> None:
    pairs = world.captioned(50, 7)
    assert pairs.images.tobytes() == stream("photo")
    assert hashlib.sha256("\n".join(pairs.captions).encode()).hexdigest() == GOLDEN_CAPTIONS


def test_another_seed_gives_other_images() -> None:
    first, second = world.captioned(50, 7), world.captioned(50, 8)
    assert not (first.images == second.images).all(axis=(1, 2, 3)).any()
    assert list(first.scenes) != list(second.scenes)


def test_images_are_bytes_of_32_by_32_pixels() -> None:
    pairs = world.captioned(5, 1)
    assert (pairs.images.shape, pairs.images.dtype) == ((5, SIDE, SIDE, 3), np.uint8)
    assert len(pairs.captions) == len(pairs.scenes) == 5
    for style in STYLES:
        image = world.render(Scene(0, 0, 0, 0), Dice(1), style)
        assert (image.shape, image.dtype) == ((SIDE, SIDE, 3), np.uint8)


def test_a_stream_that_starts_later_gives_the_same_images_as_a_longer_one() -> None:
    longer, later = world.captioned(12, 301), world.captioned(5, 301, start=7)
    assert np.array_equal(longer.images[7:], later.images)
    assert list(longer.captions[7:]) == list(later.captions)
    assert list(longer.scenes[7:]) == list(later.scenes)


def test_every_shape_colour_background_and_size_is_drawn_about_evenly() -> None:
    scenes = [world.random_scene(Dice(5, row)) for row in range(2400)]
    for place, names in enumerate((SHAPES, COLOURS, BACKGROUNDS, SIZES)):
        counts = np.bincount([scene[place] for scene in scenes], minlength=len(names))
        expected = 2400 / len(names)
        assert len(counts) == len(names)
        assert (abs(counts - expected) < 5 * expected**0.5).all(), counts


@pytest.mark.parametrize("style", STYLES)
def test_every_shape_looks_like_no_other(style: world.Style) -> None:
    images = {world.render(Scene(shape, 0, 0, 1), Dice(3), style).tobytes() for shape in range(len(SHAPES))}
    assert len(images) == len(SHAPES)


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
@pytest.mark.parametrize("size", range(len(SIZES)), ids=SIZES)
def test_the_object_has_its_colour_and_at_most_a_corner_of_it_touches_the_edge(shape: int, size: int) -> None:
    red, cyan = 0, COLOURS.index("cyan")
    for seed in range(20):
        # Two renderings with the same dice differ in the object's colour only, and so show where it is.
        first, second = (world.render(Scene(shape, colour, 0, size), Dice(seed)).astype(int) for colour in (red, cyan))
        changed = (first != second).any(axis=2)
        assert 15 <= changed.sum() <= 600
        assert changed[[0, -1]].sum() + changed[:, [0, -1]].sum() <= 6
        rows, columns = np.nonzero((second[..., 0] < 80) & (second[..., 1] > 190) & (second[..., 2] > 200))
        assert len(rows) >= 5
        assert (first[rows, columns, 0] > 200).all()
        assert (first[rows, columns, 1:] < 60).all()


def test_large_objects_cover_more_than_small_ones() -> None:
    for shape in range(len(SHAPES)):
        covered = [
            sum(
                np.ptp([world.render(Scene(shape, colour, 0, size), Dice(seed)) for colour in (0, 6)], axis=0)
                .any(axis=2)
                .sum()
                for seed in range(10)
            )
            for size in range(len(SIZES))
        ]
        assert covered[1] > 1.5 * covered[0], SHAPES[shape]


def test_styles_differ() -> None:
    photo, sketch, unseen, noise = (world.render(Scene(3, 4, 2, 1), Dice(9), style).astype(int) for style in STYLES)
    for one, other in ((photo, sketch), (photo, unseen), (sketch, unseen), (unseen, noise), (sketch, noise)):
        assert (one != other).any(axis=2).mean() > 0.5
    assert (sketch[..., 0] == sketch[..., 1]).all(), "sketches are grey"
    assert (sketch[..., 0] == sketch[..., 2]).all(), "sketches are grey"
    assert len(np.unique(sketch)) == 2, "lines on a plain ground"
    assert unseen[:2].mean() > photo[:2].mean() + 20, "unseen grounds are brighter"
    assert 0 < abs(noise - photo).max() <= 60, "noise is a photo with pixel noise"


def test_captions_mention_only_what_is_in_the_scene() -> None:
    pairs = world.captioned(1500, 11)
    mentioned = [0, 0, 0, 0]
    for caption, scene in zip(pairs.captions, pairs.scenes, strict=True):
        words = re.findall("[a-z]+", caption)
        for place, names in enumerate((SHAPES, COLOURS, BACKGROUNDS, SIZES)):
            found = [word for word in words if word in names]
            assert found in ([], [names[scene[place]]]), caption
            mentioned[place] += len(found)
    assert all(0.2 * 1500 < count < 1500 for count in mentioned), "each is mentioned often and left out sometimes"


def test_captions_have_the_right_article_and_end_in_a_full_stop() -> None:
    for caption in world.captioned(300, 11).captions:
        assert re.fullmatch(r"[a-z ]+\.", caption), caption
        for article, word in re.findall(r"\b(an?) ([a-z]+)", caption):
            assert article == ("an" if word[0] in "aeiou" else "a"), caption


def test_dice_are_even_and_keep_to_their_bounds() -> None:
    dice = Dice(1)
    assert {dice.between(-2, 2) for _ in range(200)} == {-2, -1, 0, 1, 2}
    assert {dice.below(3) for _ in range(100)} == {0, 1, 2}
    numbers = dice.array(7, 100, 70)
    assert (numbers.shape, numbers.dtype) == ((100, 70), np.int64)
    assert (abs(np.bincount(numbers.ravel(), minlength=7) - 1000) < 150).all()
    assert sorted(dice.order(50).tolist()) == list(range(50))
    assert Dice(1, 2).array(1000, 8).tolist() != Dice(2, 1).array(1000, 8).tolist()


def test_captioned_scenes_differ_within_a_split_and_their_captions_are_true(tmp_path: Path) -> None:
    options = scenes.Options(images=30)
    manifest = build("scenes", options, scenes.fetch, tmp_path)
    assert list(manifest.splits) == ["test", "val"]
    test, val = (open_split(tmp_path, manifest, name) for name in ("test", "val"))
    assert not (test.images == val.images).all(axis=(1, 2, 3)).any()
    for split in (test, val):
        assert split.owners.tolist() == [row for row in range(30) for _ in range(5)]
        for names in (SHAPES, COLOURS, BACKGROUNDS, SIZES):
            for row in range(30):
                told = {word for text in split.captions[5 * row : 5 * row + 5] for word in re.findall(r"\w+", text)}
                assert len(told & set(names)) <= 1, "captions of one image never contradict each other"
