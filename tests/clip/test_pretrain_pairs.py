"""Small CLIPs trained on the pairs of a dataset."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.clip.model import build
from bench.clip.pretrain import pretrain_to
from bench.clip.pretrain_pairs import varied
from bench.config import Options, PretrainingSpec
from bench.datasets.photos import caption
from bench.datasets.store import Description, write_split
from bench.datasets.store import build as build_dataset
from bench.errors import UserError

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def two_colours(options: Options, folder: Path) -> Description:
    """Red cats and blue ships, each a little different."""
    del options
    dice = np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 20)):
        labels = np.arange(count) % 2
        images = dice.integers(0, 60, (count, 3, 32, 32))
        images[np.arange(count), 2 * labels] += 150
        captions = [caption(("cat", "ship")[label], row) for row, label in enumerate(labels)]
        write_split(folder, split, images.astype(np.uint8), labels, captions)
    return Description(
        class_names=("cat", "ship"), template="a photo of a {}.", source="", licence="", redistribution=True
    )


def test_images_are_moved_by_so_many_pixels_at_most_and_half_of_them_mirrored() -> None:
    images = torch.zeros(200, 3, 32, 32)
    images[:, :, 10, 6] = 1
    images[:, :, 10, 7] = 0.5
    changed = varied(images, 3, True, stream())
    brightest = [np.unravel_index(int(image[0].argmax()), (32, 32)) for image in changed]
    rows, columns = ({int(place[axis]) for place in brightest} for axis in (0, 1))
    assert rows == set(range(7, 14))
    assert columns == set(range(3, 10)) | {31 - column for column in range(3, 10)}
    mirrored = [column > 15 for _, column in brightest]
    assert 70 < sum(mirrored) < 130
    for image, (row, column), mirror in zip(changed, brightest, mirrored, strict=True):
        assert image[0, row, column + (-1 if mirror else 1)] == 0.5, "what was to the right is to the left"


def test_the_same_seed_varies_alike_and_nothing_varies_where_nothing_is_asked() -> None:
    images = torch.rand(5, 3, 8, 8, generator=stream())
    assert torch.equal(varied(images, 2, True, stream()), varied(images, 2, True, stream()))
    assert torch.equal(varied(images, 0, False, stream()), images)


def test_a_clip_trained_on_pairs_tells_their_classes_apart(tmp_path: Path) -> None:
    build_dataset("colours", Options(), two_colours, tmp_path / "data")
    recipe = {"learning_rate": 2e-3, "batch_size": 16, "warmup_steps": 5, "steps": 30}
    spec = PretrainingSpec(architecture="mini_photos", pairs="colours", options=recipe)
    card = pretrain_to(tmp_path / "made", spec, tmp_path / "data", "here")
    assert card.zero_shot == {"colours": {"test": 100.0}}
    assert (card.pairs, card.recipe.seed) == ("colours", 1)
    again = pretrain_to(tmp_path / "again", spec, tmp_path / "data", "here")
    assert again.sha256 == card.sha256


def test_pairs_that_were_not_fetched_and_wrong_options_are_told(tmp_path: Path) -> None:
    spec = PretrainingSpec(architecture="mini_photos", pairs="photos", options={"steps": 1})
    with pytest.raises(UserError, match="bench fetch photos"):
        pretrain_to(tmp_path / "made", spec, tmp_path, "here")
    with pytest.raises(UserError, match=r"here\.options: steps: Field required"):
        pretrain_to(tmp_path / "made", spec.model_copy(update={"options": {}}), tmp_path, "here")
    assert not (tmp_path / "made").exists()


def test_the_small_clip_for_photographs_knows_all_words_of_their_captions() -> None:
    tokenize = build("mini_photos").tokenize
    captions = {caption(name, row) for name in NAMES for row in range(60)}
    assert len(captions) == 6 * len(NAMES)
    assert tokenize(sorted(captions)).shape == (len(captions), 16)
