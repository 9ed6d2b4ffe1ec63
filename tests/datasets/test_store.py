from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.config import Options
from bench.datasets import captions, digits, shapes
from bench.datasets.store import Description, Manifest, build, open_split, read_manifest, write_split
from bench.errors import UserError
from bench.items import load_item

FEW = shapes.Options(train_per_class=3, val_per_class=1, test_per_class=2)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return build("shapes", FEW, shapes.fetch, tmp_path)


def test_shapes_have_the_splits_and_sizes_that_were_asked_for(tmp_path: Path, manifest: Manifest) -> None:
    assert {name: split.count for name, split in manifest.splits.items()} == {
        "train": 36, "val": 12, "test": 24, "sketch": 24, "unseen": 24, "noise": 24,
    }  # fmt: skip
    assert manifest.splits["train"].per_class == (3,) * 12
    assert manifest.description.class_names == tuple(manifest.description.class_names)
    for name, entry in manifest.splits.items():
        split = open_split(tmp_path, manifest, name)
        assert (split.images.shape, split.images.dtype) == ((entry.count, 3, 32, 32), np.uint8)
        assert split.labels.tolist() == [row % 12 for row in range(entry.count)]
        assert split.captions == []


def test_no_image_of_one_split_is_in_another(tmp_path: Path, manifest: Manifest) -> None:
    seen = set[bytes]()
    for name in manifest.splits:
        images = {image.tobytes() for image in open_split(tmp_path, manifest, name).images}
        assert not images & seen
        seen |= images


def test_batches_are_float_images_and_labels_of_their_rows(tmp_path: Path, manifest: Manifest) -> None:
    split = open_split(tmp_path, manifest, "test")
    images, labels = split.batch([5, 0]), split.targets([5, 0])
    assert (images.dtype, images.shape, labels.tolist()) == (torch.float32, (2, 3, 32, 32), [5, 0])
    assert torch.equal((images[1] * 255).round().to(torch.uint8), torch.from_numpy(np.array(split.images[0])))
    assert split.batch(slice(None)).min() >= 0
    assert split.batch(slice(None)).max() <= 1


def test_the_manifest_is_read_back_with_its_digest(tmp_path: Path, manifest: Manifest) -> None:
    again = read_manifest(tmp_path, "shapes")
    assert again == manifest
    assert again.digest == manifest.digest


def test_building_again_gives_the_same_digest_and_other_options_another(tmp_path: Path, manifest: Manifest) -> None:
    assert build("shapes", FEW, shapes.fetch, tmp_path).digest == manifest.digest
    more = FEW.model_copy(update={"test_per_class": 3})
    assert build("shapes", more, shapes.fetch, tmp_path).digest != manifest.digest


@pytest.mark.parametrize("file", ["test.images.npy", "test.labels.npy"])
def test_one_changed_byte_is_detected_and_the_file_is_named(tmp_path: Path, manifest: Manifest, file: str) -> None:
    path = tmp_path / "shapes" / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"shapes/{file} .*differs from its manifest; run `bench fetch shapes`"):
        open_split(tmp_path, manifest, "test")
    open_split(tmp_path, manifest, "val")


def test_a_missing_file_is_detected_and_named(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "shapes" / "sketch.labels.npy").unlink()
    with pytest.raises(UserError, match=r"sketch\.labels\.npy is missing"):
        open_split(tmp_path, manifest, "sketch")


def test_a_dataset_that_was_not_fetched_says_how_to_fetch_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"digits\.json is missing.*run `bench fetch digits`"):
        read_manifest(tmp_path, "digits")


def test_an_unknown_split_names_the_known_ones(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(UserError, match=r"dataset 'shapes' has no split 'tset'; it has .*test"):
        open_split(tmp_path, manifest, "tset")


def _breaks(options: Options, folder: Path) -> Description:
    write_split(folder, "stray", np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, np.int64))
    raise ConnectionError("half way")


def test_a_failing_fetch_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        build("shapes", FEW, _breaks, tmp_path)
    assert not (tmp_path / "shapes").exists()
    with pytest.raises(UserError, match="has not been fetched"):
        read_manifest(tmp_path, "shapes")
    manifest = build("shapes", FEW, shapes.fetch, tmp_path)
    assert "stray" not in manifest.splits, "what the failed fetch left is not mixed in"
    assert not (tmp_path / "shapes" / "stray.images.npy").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifests", "shapes"]


def test_a_failing_fetch_leaves_the_earlier_one_usable(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(ConnectionError):
        build("shapes", FEW, _breaks, tmp_path)
    assert read_manifest(tmp_path, "shapes") == manifest
    assert len(open_split(tmp_path, manifest, "train").labels) == 36


def test_captions_are_one_split_of_pairs(tmp_path: Path) -> None:
    manifest = build("captions", captions.Options(pairs=9), captions.fetch, tmp_path)
    pairs = open_split(tmp_path, manifest, "train")
    assert list(manifest.splits) == ["train"]
    assert pairs.images.shape == (9, 3, 32, 32)
    assert len(pairs.captions) == 9
    assert len(pairs.labels) == 0
    assert manifest.splits["train"].per_class == ()
    path = tmp_path / "captions" / "train.captions.json"
    path.write_text(path.read_text().replace("a", "e", 1))
    with pytest.raises(UserError, match=r"train\.captions\.json"):
        open_split(tmp_path, manifest, "train")


@pytest.fixture(scope="module")
def fetched_digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    data = tmp_path_factory.mktemp("digits")
    return data, build("digits", digits.Options(), digits.fetch, data)


def test_digits_are_split_into_898_199_and_700_disjoint_images(fetched_digits: tuple[Path, Manifest]) -> None:
    data, manifest = fetched_digits
    assert {name: split.count for name, split in manifest.splits.items()} == {"train": 898, "val": 199, "test": 700}
    images = {name: {image.tobytes() for image in open_split(data, manifest, name).images} for name in manifest.splits}
    # All 1,797 images differ, so no image can be in two splits and none is lost.
    assert len(images["train"] | images["val"] | images["test"]) == 1797


def test_digits_have_every_class_in_every_split_and_are_grey(fetched_digits: tuple[Path, Manifest]) -> None:
    data, manifest = fetched_digits
    for name, entry in manifest.splits.items():
        assert min(entry.per_class) >= entry.count / 10 * 0.4
        split = open_split(data, manifest, name)
        assert split.images.shape[1:] == (3, 32, 32)
        assert (split.images == split.images[:, :1]).all()
        assert split.images.max() > 240


def test_pretraining_sees_the_training_half_of_the_digits_and_nothing_else(
    fetched_digits: tuple[Path, Manifest],
) -> None:
    data, manifest = fetched_digits
    grey, labels = digits.training_half()
    train = open_split(data, manifest, "train")
    assert np.array_equal(train.labels, labels)
    assert np.array_equal(train.images[:, 0], np.stack([digits.enlarge(image, 32) for image in grey]))


@pytest.mark.parametrize("name", ["shapes", "colours", "backgrounds", "shape_colour"])
def test_labels_say_what_a_rendered_image_shows(tmp_path: Path, name: str) -> None:
    module: Any = load_item("datasets", name, "test")
    small = {f"{split}_per_class": 1 for split in ("train", "val", "test")}
    manifest = build(name, module.Options(**small), module.fetch, tmp_path)
    names = manifest.description.class_names
    assert len(set(names)) == len(names) == len(open_split(tmp_path, manifest, "train").labels)
    assert manifest.description.template.count("{}") == 1
