"""Archives that are whole but wrong: each is told in one message, and leaves no dataset behind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.datasets import cifar10, eurosat, store
from bench.datasets.archives.fetch import fetch_source
from bench.errors import UserError
from bench.files import sha256_of
from tests.datasets.archives import layouts
from tests.datasets.archives.packing import coop_split, numbered, picture, write_tar, write_zip

LANDS = {"AnnualCrop": "Annual Crop Land", "Forest": "Forest"}


def name_of(land: str, number: int) -> str:
    return f"{land}/{land}_{number}.jpg"


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The message of EuroSAT with these images (and a good split file), or of another dataset made by ``layout``."""

    def fetch(images: dict[str, bytes], **expected: object) -> str:
        root = tmp_path / "mirror"
        write_zip(root / "eurosat/EuroSAT.zip", {f"2750/{name}": content for name, content in images.items()})
        coop_split(root / "eurosat/split_zhou_EuroSAT.json", LANDS, name_of)
        monkeypatch.setenv("BENCH_MIRROR", str(root))
        options = eurosat.Options(size=8, pins={path.name: sha256_of(path) for path in (root / "eurosat").iterdir()})
        source = replace(eurosat.source(options), **{"counts": {}, "classes": 2, **expected})
        with pytest.raises(UserError) as error:
            store.build(
                "eurosat", options, lambda chosen, folder: fetch_source(source, chosen, folder), tmp_path / "data"
            )
        assert not (tmp_path / "data/eurosat").exists()
        assert not (tmp_path / "data/manifests/eurosat.json").exists()
        return " ".join(str(error.value).split())

    return fetch


def test_a_missing_class_folder_is_named(refused) -> None:
    images = {name: content for name, content in numbered(LANDS, name_of).items() if "Forest" not in name}
    assert "split 'tecoa16' has no image of 'Forest'" in " ".join(refused(images).split())


def test_a_missing_image_is_named(refused) -> None:
    images = numbered(LANDS, name_of)
    del images["Forest/Forest_5.jpg"]
    assert "1 of the images that the splits name are not in the archives, first: Forest/Forest_5.jpg" in refused(images)


def test_an_image_that_cannot_be_decoded_is_named(refused) -> None:
    images = numbered(LANDS, name_of) | {"Forest/Forest_2.jpg": picture(3)[:200]}
    assert "'Forest/Forest_2.jpg' cannot be decoded" in refused(images)


def test_wrong_counts_are_all_told(refused) -> None:
    message = refused(numbered(LANDS, name_of), counts={"train": 13500, "test": 4, "tecoa16": 27000}, classes=10)
    for part in ("'train' has 6 images instead of 13500", "'tecoa16' has 12 images", "2 classes instead of 10"):
        assert part in message
    assert "'test'" not in message


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.cifar10(tmp_path)
    evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    files = {"cifar-10-batches-py/batches.meta": evil} | {
        f"cifar-10-batches-py/{name}": b"" for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch")
    }
    path = tmp_path / "cifar10/cifar-10-python.tar.gz"
    write_tar(path, files, "w:gz")
    monkeypatch.setenv("BENCH_MIRROR", str(tmp_path))
    options = cifar10.Options(size=8, pins={path.name: sha256_of(path)})
    with pytest.raises(UserError, match=r"batches\.meta is not a batch of CIFAR: it asks for os\.system"):
        store.build("cifar10", options, cifar10.fetch, tmp_path / "data")
    assert not (tmp_path / "owned").exists()


def test_an_unknown_split_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.eurosat(tmp_path)
    monkeypatch.setenv("BENCH_MIRROR", str(tmp_path))
    pins = {path.name: sha256_of(path) for path in (tmp_path / "eurosat").iterdir()}
    options = eurosat.Options(size=8, pins=pins, splits=("tset",))
    source = replace(eurosat.source(options), counts={}, classes=0)
    with pytest.raises(UserError, match=r"datasets\.eurosat\.splits: unknown split 'tset'; did you mean 'test'"):
        store.build("eurosat", options, lambda chosen, folder: fetch_source(source, chosen, folder), tmp_path / "data")
