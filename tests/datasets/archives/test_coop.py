"""CoOp's splits and samples: its own split files where they are at hand, and lists published by others."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from bench.datasets.archives import coop
from bench.datasets.archives.source import Opened, Rows
from bench.errors import UserError
from bench.files import sha256_of
from bench.items import load_item

MIRROR = Path(__file__).resolve().parents[4] / "shared" / "data" / "mirror"
needs_splits = pytest.mark.skipif(
    not (MIRROR / "coop").is_dir(), reason=f"CoOp's split files are not in {MIRROR / 'coop'}"
)
# Classes, and test images of base and new classes.
SETS = {
    "caltech101": (100, 1549, 916),
    "dtd": (47, 864, 828),
    "eurosat": (10, 4200, 3900),
    "flowers102": (102, 1053, 1410),
    "oxford_pets": (37, 1881, 1788),
    "stanford_cars": (196, 4002, 4039),
    "ucf101": (101, 1934, 1849),
}
# First and last images of index lists published by cross_modal_adaptation (indices/<dataset>/shot_<k>-seed_<s>.json).
PUBLISHED = {
    ("caltech101", 1, 1): [
        "Faces/image_0201.jpg", "Leopards/image_0123.jpg", "Motorbikes/image_0036.jpg", "accordion/image_0043.jpg",
        "airplanes/image_0663.jpg", "anchor/image_0027.jpg", "ant/image_0003.jpg", "barrel/image_0022.jpg",
    ],
    ("dtd", 2, 3): [
        "banded/banded_0082.jpg", "banded/banded_0090.jpg", "blotchy/blotchy_0135.jpg", "blotchy/blotchy_0054.jpg",
        "braided/braided_0160.jpg", "braided/braided_0140.jpg", "bubbly/bubbly_0042.jpg", "bubbly/bubbly_0103.jpg",
    ],
}  # fmt: skip


def read(name: str) -> tuple[dict[str, Rows], tuple[str, ...]]:
    split = load_item("datasets", name, "test").SPLIT
    return coop.read_split(Opened(MIRROR / "coop", {split.name: split}), split.name)


@needs_splits
@pytest.mark.parametrize("name", SETS)
def test_the_split_files_are_the_pinned_ones_and_do_not_overlap(name: str) -> None:
    module = load_item("datasets", name, "test")
    path = MIRROR / "coop" / module.SPLIT.name
    assert (path.stat().st_size, sha256_of(path)) == (module.SPLIT.size, module.SPLIT.sha256)
    splits, names = read(name)
    source = module.source(module.Options())
    assert {split: len(rows.keys) for split, rows in splits.items()}.items() <= source.counts.items()
    assert len(names) == len(set(names)) == source.classes
    assert coop.overlaps(splits) == []
    assert all(set(rows.labels) == set(range(len(names))) for rows in splits.values())


@needs_splits
@pytest.mark.parametrize("name", SETS)
def test_base_and_new_classes(name: str) -> None:
    splits, names = read(name)
    classes, base, new = SETS[name]
    assert len(names) == classes
    labels, half = np.array(splits["test"].labels), coop.base_classes(classes)
    for part, count, expected in (("base", half, base), ("new", classes - half, new)):
        rows, counted = coop.half(labels, half, part)
        assert len(rows) == expected
        assert set(counted.tolist()) == set(range(count))
        assert len({names[label] for label in labels[rows]}) == count


@needs_splits
@pytest.mark.parametrize("name", SETS)
def test_few_shot_samples_are_the_recorded_ones(name: str) -> None:
    assert coop.digests(read(name)[0]["train"].labels) == coop.published_digests(name)


@needs_splits
@pytest.mark.parametrize(("name", "shots", "seed"), PUBLISHED)
def test_few_shot_samples_are_those_published_elsewhere(name: str, shots: int, seed: int) -> None:
    train = read(name)[0]["train"]
    rows, _ = coop.few_shot(train.labels, (), shots, seed)
    assert [train.keys[row] for row in rows[:8]] == PUBLISHED[name, shots, seed]


def test_samples_follow_the_global_random_stream_train_before_val() -> None:
    train, val = [0, 1, 0, 1, 0, 1, 0, 2], [1, 0, 1, 0, 1, 0, 1, 0, 1, 0]
    random.seed(5)
    expected = [random.sample(rows, 2) if len(rows) > 1 else rows for rows in ([0, 2, 4, 6], [1, 3, 5], [7])]
    val_expected = [random.sample(rows, 2) for rows in ([0, 2, 4, 6, 8], [1, 3, 5, 7, 9])]
    assert coop.few_shot(train, val, 2, 5) == (
        [row for rows in expected for row in rows],
        [row for rows in val_expected for row in rows],
    )
    assert len(coop.few_shot(train, val, 16, 5)[1]) == 8, "at most four of each class to validate on"


def test_an_overlap_is_told() -> None:
    splits = {"train": Rows(["a", "b", "b"]), "val": Rows(["c"]), "test": Rows(["a", "c", "d"])}
    assert coop.overlaps(splits) == [
        "split 'train' names 1 images twice",
        "'train' and 'test' share 1 images, such as a",
        "'val' and 'test' share 1 images, such as c",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html>", "is not a split file"),
        ('{"train": [["a.jpg", "zero", "cat"]]}', "is not a split file"),
        ('{"train": []}', "instead of train, val and test"),
        (json.dumps({"train": [["a", 0, "x"]], "val": [], "test": [["b", 2, "y"]]}), "labels are not 0 to 1"),
    ],
)
def test_a_wrong_split_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        coop.read_split(Opened(tmp_path, {}), "split.json")
    assert "split.json" in str(error.value)
