"""Every real dataset, from tiny archives in the published layout, through the whole of its own code."""

import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from bench.clip.classifier import predict
from bench.clip.defended import DefendedCLIP
from bench.clip.model import Clip
from bench.clip.staged import StagedCLIP
from bench.config import Options
from bench.datasets import vqav2
from bench.datasets.archives import fetch as furniture
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.sampling import training_sample
from bench.datasets.store import Description, Manifest, build, open_split
from bench.defenses.artefact import task_of
from bench.files import sha256_of
from bench.items import item_ids, load_item
from tests.datasets.archives.conftest import Server
from tests.datasets.archives.layouts import LAYOUTS
from tests.datasets.archives.packing import picture

MORE: dict[str, dict[str, Any]] = {
    "cc3m": {"shards": 2},
    "imagenet": {"train_per_class": 2, "val_per_class": 1},
    "photo_pairs": {"val_per_class": 1, "train_per_class": 2},
    "photos": {"val_per_class": 1, "train_per_class": 2},
}
# Splits with their sizes, and class names of the dataset's own protocol.
EXPECTED: dict[str, tuple[dict[str, int], tuple[str, ...]]] = {
    "caltech101": ({"train": 9, "val": 3, "test": 6, "tecoa16": 19}, ("face", "accordion", "wild cat")),
    "caltech101_mini": ({"train": 9, "val": 3, "test": 6}, ("red circle", "green circle", "blue circle")),
    "caltech256": ({"tecoa16": 4}, ("ak47", "tennis shoes", "clutter")),
    "cc3m": ({"train": 7}, ()),
    "cifar10": ({"train": 10, "test": 2, "tecoa16": 2}, ("airplane", "automobile")),
    "cifar100": ({"train": 2, "test": 2, "tecoa16": 2}, ("apple", "aquarium fish")),
    "coco_captions": ({"test": 2}, ()),
    "coco_objects": ({"caption": 2, "questions": 2}, ()),
    "country211": ({"test": 8, "tecoa16": 8}, ("Andorra", "United Arab Emirates")),
    "dtd": ({"train": 6, "val": 2, "test": 4, "tecoa16": 2}, ("banded", "polka-dotted")),
    "eurosat": ({"train": 6, "val": 2, "test": 4, "tecoa16": 12}, ("Annual Crop Land", "Forest")),
    "fgvc_aircraft": ({"train": 2, "val": 2, "test": 2, "tecoa16": 2}, ("A300B4", "707-320")),
    "flickr30k": ({"test": 10}, ()),
    "flowers102": ({"train": 6, "val": 2, "test": 4, "tecoa16": 2}, ("pink primrose", "colt's foot")),
    "food101": ({"train": 6, "val": 2, "test": 4, "tecoa16": 2}, ("apple pie", "waffles")),
    "imagenet": ({"test": 4, "tecoa16": 4, "train": 6, "val": 3}, ()),
    "imagenet_a": ({"test": 6}, ("tench", "stingray", "banana")),
    "imagenet_r": ({"test": 6}, ("tench", "stingray", "banana")),
    "imagenet_sketch": ({"test": 6}, ("tench", "stingray", "banana")),
    "imagenet_v2": ({"test": 5}, ()),
    "oxford_pets": ({"train": 6, "val": 2, "test": 4, "tecoa16": 4}, ("abyssinian", "beagle")),
    "pcam": ({"test": 14, "tecoa16": 14}, ("healthy lymph node tissue", "lymph node tumor tissue")),
    "photo_pairs": ({"train": 4, "test": 2}, ("airplane", "automobile")),
    "photos": ({"train": 4, "val": 2, "test": 2}, ("airplane", "automobile")),
    "stanford_cars": (
        {"train": 6, "val": 2, "test": 4, "tecoa16": 4}, ("2012 Audi TTS Coupe", "2007 Dodge Dakota Club-Cab"),
    ),
    "stl10": ({"train": 2, "test": 2, "tecoa16": 2}, ("airplane", "bird")),
    "sun397": ({"train": 6, "val": 2, "test": 4, "tecoa16": 14}, ("abbey", "outdoor apartment building")),
    "ucf101": ({"train": 6, "val": 2, "test": 4}, ("Apply Eye Makeup", "Yo Yo")),
    "vqav2": ({"train": 2, "val": 2}, ()),
}  # fmt: skip
RENDERED = {
    *("shapes", "colours", "backgrounds", "shape_colour", "captions", "scenes", "digits"),
    *("world_questions", "world_colours", "world_descriptions", "world_objects"),
}

Fetched = Callable[..., Manifest]


@pytest.fixture(scope="session")
def small_clip() -> DefendedCLIP:
    """A tiny CLIP with random weights and the vocabulary of the large ones, for 32x32 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(
            embed_dim=16,
            vision_cfg=open_clip.CLIPVisionCfg(image_size=32, patch_size=16, width=32, layers=1, head_width=16),
            text_cfg=open_clip.CLIPTextCfg(width=32, layers=1, heads=2),
        )
    model.eval().requires_grad_(False)
    tokenize = open_clip.get_tokenizer("ViT-B-32")
    return DefendedCLIP(StagedCLIP(Clip("small", model, tokenize, 32, (0.5,) * 3, (0.25,) * 3)))


@pytest.fixture
def fetched(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Fetched:
    """Makes a dataset's archives, serves them as a lab's mirror, and fetches from there into ``tmp_path/data``."""

    made = set[str]()

    def fetch(name: str, **options: Any) -> Manifest:
        if name not in made:  # a second time they would have other dates, and so other checksums
            LAYOUTS[name](server.root)
        made.add(name)
        monkeypatch.setenv("BENCH_MIRROR", server.url)
        module = load_item("datasets", name, "test")
        pins = {path.name: sha256_of(path) for path in server.root.rglob("*") if path.is_file()}
        chosen = module.Options(size=32, pins=pins, **MORE.get(name, {}), **options)
        return build(name, chosen, _small(module), tmp_path / "data")

    return fetch


def _small(module: Any) -> Callable[[Options, Path], Description]:
    """The dataset's own fetch, without the sizes that only the published archives have."""

    def fetch(options: Any, folder: Path) -> Description:
        source = module.source(options)
        if source.read is None:
            return module.fetch(options, folder)
        return fetch_source(replace(source, counts={}, classes=0), options, folder)

    return fetch


def test_every_real_dataset_has_a_layout_here() -> None:
    assert set(LAYOUTS) == set(EXPECTED) == set(item_ids("datasets")) - RENDERED


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_archives_in_the_published_layout_become_splits(
    tmp_path: Path, fetched: Fetched, small_clip: DefendedCLIP, name: str
) -> None:
    manifest = fetched(name)
    counts, names = EXPECTED[name]
    assert {split: entry.count for split, entry in manifest.splits.items()} == counts
    if names:
        assert manifest.description.class_names == names
    for split in counts:
        opened = open_split(tmp_path / "data", manifest, split)
        assert opened.images.shape == (counts[split], 3, 32, 32)
        assert all(image.any() for image in opened.images), "no row is left at zero"
        assert len(opened.names) == len(set(opened.names)) == counts[split]
        if manifest.description.class_names:
            assert len(opened.labels) == counts[split]
            batch = opened.batch(slice(0, 4))
            task = task_of(manifest)._replace(class_names=manifest.description.class_names[:12])
            assert predict(small_clip.classifier(task), batch).shape == (len(batch),)
        else:
            assert len(opened.captions) >= counts[split]
    assert manifest.description.licence
    assert set(manifest.description.archives), "checksums of the archives are recorded"


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"cc3m", "coco_captions", "coco_objects", "vqav2", "flickr30k"}))
def test_every_protocol_names_every_class(fetched: Fetched, name: str) -> None:
    description = fetched(name).description
    own = next(iter(description.prompts.values()))
    assert (own.class_names, own.template) == (description.class_names, description.template)
    for prompts in description.prompts.values():
        assert prompts.template.count("{}") == 1
        assert len(prompts.class_names) == len(description.class_names)
        assert not any("_" in class_name for class_name in prompts.class_names)


def test_the_tecoa_list_has_its_own_words(fetched: Fetched) -> None:
    cars = fetched("stanford_cars").description.prompts["tecoa16"]
    assert cars.class_names == ("Audi TTS Coupe", "Dodge Dakota Club Cab")
    assert fetched("fgvc_aircraft").description.prompts["tecoa16"].class_names == ("A300B4", "Boeing 707-320")
    assert fetched("caltech101").description.prompts["tecoa16"].class_names == ("person", "accordion", "wild cat")
    sun = fetched("sun397").description.prompts["tecoa16"]
    assert sun.class_names == ("abbey", "apartment building outdoor")


def test_both_face_classes_of_caltech101_are_one_person(tmp_path: Path, fetched: Fetched) -> None:
    split = open_split(tmp_path / "data", fetched("caltech101"), "tecoa16")
    labels = dict(zip(split.names, split.labels.tolist(), strict=True))
    assert labels["Faces_easy/image_0001.jpg"] == labels["Faces/image_0001.jpg"] == 0
    assert not any("BACKGROUND" in name for name in labels)


def test_grey_images_become_rgb(tmp_path: Path, fetched: Fetched) -> None:
    split = open_split(tmp_path / "data", fetched("caltech101"), "train")
    grey = split.images[list(split.names).index("Faces/image_0001.jpg")]
    assert (grey == grey[:1]).all()


def test_numbered_folders_are_numbers_and_not_text(tmp_path: Path, fetched: Fetched) -> None:
    split = open_split(tmp_path / "data", fetched("imagenet_v2"), "test")
    assert {name.partition("/")[0]: label for name, label in zip(split.names, split.labels.tolist(), strict=True)} == {
        "0": 0, "1": 1, "2": 2, "10": 10, "999": 999,
    }  # fmt: skip


def test_imagenet_labels_follow_the_development_kit(tmp_path: Path, fetched: Fetched) -> None:
    manifest = fetched("imagenet")
    test, train = (open_split(tmp_path / "data", manifest, split) for split in ("test", "train"))
    names = manifest.description.class_names
    assert [names[label] for label in test.labels] == ["banana", "goldfish", "tench", "goldfish"]
    assert [names[label] for label in train.labels] == ["tench"] * 2 + ["goldfish"] * 2 + ["banana"] * 2
    assert not set(train.names) & set(open_split(tmp_path / "data", manifest, "val").names)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_pixels_stand_where_they_should(tmp_path: Path, fetched: Fetched, name: str) -> None:
    test = open_split(tmp_path / "data", fetched(name), "test")
    assert test.labels.tolist() == [1, 0]
    assert (test.images[0, 0, 3, 20], test.images[0].astype(int).sum()) == (105 if name == "cifar10" else 101,) * 2


def test_photographs_have_sentences_with_the_name_of_their_class(tmp_path: Path, fetched: Fetched) -> None:
    manifest, others = fetched("photos"), fetched("photo_pairs")
    train, val = (open_split(tmp_path / "data", manifest, split) for split in ("train", "val"))
    pairs = open_split(tmp_path / "data", others, "train")
    assert sorted(val.labels) == [0, 1]
    assert sorted(train.labels) == [0, 0, 1, 1]
    assert len({*train.names, *val.names, *pairs.names}) == 10, "no two uses share an image"
    assert len(set(train.captions)) > 2
    for part in (train, val, pairs):
        for label, text in zip(part.labels, part.captions, strict=True):
            assert f"an {manifest.description.class_names[label]}" in text


def test_stl10_is_stored_by_columns_and_counts_from_one(tmp_path: Path, fetched: Fetched) -> None:
    test = open_split(tmp_path / "data", fetched("stl10"), "test")
    row, column = np.unravel_index(test.images[0, 0].argmax(), (32, 32))
    assert (row, column) == (80 // 3, 10 // 3)
    assert test.labels.tolist() == [1, 0]


def test_flowers_count_from_one(tmp_path: Path, fetched: Fetched) -> None:
    official = open_split(tmp_path / "data", fetched("flowers102"), "tecoa16")
    assert list(official.names) == ["image_00003.jpg", "image_00012.jpg"]
    assert official.labels.tolist() == [0, 1]


def test_retrieval_knows_which_caption_is_whose(tmp_path: Path, fetched: Fetched) -> None:
    flickr = open_split(tmp_path / "data", fetched("flickr30k"), "test")
    assert flickr.captions[7] == "caption 2 of 1"
    assert flickr.owners.tolist() == [row for row in range(10) for _ in range(5)]
    coco = open_split(tmp_path / "data", fetched("coco_captions"), "test")
    assert [(coco.names[owner], text) for owner, text in zip(coco.owners, coco.captions, strict=True)] == [
        ("COCO_val2014_000000000009.jpg", "a dog"),
        ("COCO_val2014_000000000042.jpg", "a cat with a hat"),
        ("COCO_val2014_000000000009.jpg", "some dog"),
    ]


def test_questions_have_their_image_and_ten_answers(tmp_path: Path, fetched: Fetched) -> None:
    split = open_split(tmp_path / "data", fetched("vqav2"), "val")
    assert list(split.captions) == ["What is it?", "How many?", "Is it red?"]
    assert [split.names[owner][-6:] for owner in split.owners] == ["42.jpg", "09.jpg", "42.jpg"]
    assert split.answers[10:20] == [f"90-{k}" for k in range(10)]


def test_questions_to_train_on_have_an_image_each(
    tmp_path: Path, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = fetched("vqav2")
    split = open_split(tmp_path / "data", manifest, "train")
    assert len(split.captions) == len(split.images) == 2
    assert len(split.owners) == 0, "as pairs have it"
    about = {"What colour?": 7, "Is it old?": 7, "Where is it?": 5, "Who is it?": 5}
    numbers = {"What colour?": 71, "Is it old?": 70, "Where is it?": 50, "Who is it?": 51}
    assert [int(name[-6:-4]) for name in split.names] == [about[question] for question in split.captions]
    assert split.answers[::10] == [f"{numbers[question]}-0" for question in split.captions]
    asked = [{"question_id": number, "image_id": number // 3, "question": ""} for number in range(300)]
    monkeypatch.setattr(vqav2, "_TRAIN", 40)
    chosen = [entry["question_id"] for entry in vqav2.drawn(reversed(asked))]
    assert len({number // 3 for number in chosen}) == 40
    assert chosen[:6] == [4, 8, 17, 27, 36, 49]


def test_objects_have_a_request_three_questions_and_another_object_that_is_wanted(
    tmp_path: Path, fetched: Fetched
) -> None:
    manifest = fetched("coco_objects")
    caption, questions = (open_split(tmp_path / "data", manifest, name) for name in ("caption", "questions"))
    assert list(caption.captions) == ["Describe the image briefly in one sentence."] * 2
    assert list(questions.captions) == ["What animal is it?", "Who sits there?", "Which is it?", "a?", "b?", "c?"]
    assert questions.owners.tolist() == [0, 0, 0, 1, 1, 1]
    for split in (caption, questions):
        assert list(split.names) == ["000000000285.jpg", "000000001584.jpg"]
        assert list(split.swaps) == ["grizzly bear > lion", "bus > trolley"]
    assert list(caption.answers) == ["grizzly bear", "bus"]
    assert list(questions.answers) == ["grizzly bear"] * 3 + ["bus"] * 3


def test_pairs_without_an_image_are_left_out_and_told(tmp_path: Path, fetched: Fetched, capsys) -> None:
    manifest = fetched("cc3m")
    split = open_split(tmp_path / "data", manifest, "train")
    assert manifest.description.left_out == 1
    assert list(split.captions) == [f"caption {s} {r}" for s in (0, 1) for r in range(4) if (s, r) != (0, 2)]
    message = " ".join(capsys.readouterr().err.split())
    assert "1 of 8 pairs left out" in message
    assert "cc3m-train-0000.tar/000000002" in message


def test_coop_datasets_are_sampled_as_coop_does(tmp_path: Path, fetched: Fetched) -> None:
    manifest = fetched("dtd")
    labels = open_split(tmp_path / "data", manifest, "train").labels
    assert manifest.description.base_classes == 1
    assert training_sample(manifest, labels, 16, 1).tolist() == list(range(6)), "all, where a class has fewer"
    draws = {tuple(training_sample(manifest, labels, 2, seed).tolist()) for seed in range(12)}
    assert len(draws) > 1
    assert all((np.bincount(labels[list(draw)]) == 2).all() for draw in draws)


def test_another_choice_and_back_decodes_once(tmp_path: Path, fetched: Fetched, monkeypatch) -> None:
    decoded, really = list[str](), furniture.fill
    monkeypatch.setattr(furniture, "fill", lambda *args: (decoded.append(args[0].name), really(*args))[1])
    first = fetched("eurosat")
    small = fetched("eurosat", shorter_side=36, splits=("test",))
    assert list(small.splits) == ["test"]
    assert small.splits["test"].files["test.images.npy"] != first.splits["test"].files["test.images.npy"]
    assert fetched("eurosat").digest == first.digest
    assert len(decoded) == len(set(decoded)) == 2


def test_a_damaged_decoded_image_is_decoded_again(tmp_path: Path, fetched: Fetched) -> None:
    first = fetched("eurosat")
    path = tmp_path / "data/eurosat/test.images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert fetched("eurosat").digest == first.digest
    assert torch.equal(open_split(tmp_path / "data", first, "test").targets(slice(None)), torch.tensor([0, 0, 1, 1]))


def test_archives_that_somebody_unpacked_do_too(tmp_path: Path, fetched: Fetched, capsys) -> None:
    first = fetched("oxford_pets")
    folder = tmp_path / "data/archives/oxford_pets"
    with tarfile.open(folder / "images.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (folder / "images.tar.gz").unlink()
    again = fetched("oxford_pets")
    assert "counted, not verified" in " ".join(capsys.readouterr().err.split())
    assert again.digest == first.digest
    (folder / "images/Abyssinian_5.jpg").write_bytes(picture(1234, size=(30, 50)))
    assert fetched("oxford_pets").digest != first.digest, "another tree is not taken for the one before"
