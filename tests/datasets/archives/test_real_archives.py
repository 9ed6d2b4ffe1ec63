"""The real archives of a local mirror: Caltech101 over HTTP with a dropped connection, and CIFAR-10's format."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from bench import cli
from bench.datasets import caltech101, cifar10
from bench.datasets.archives import coop
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.sampling import training_sample
from bench.datasets.store import build, open_split
from tests.datasets.archives.conftest import Server

MIRROR = Path(__file__).resolve().parents[4] / "shared" / "data" / "mirror"
# The archives are packed anew, so their checksums are not the published ones.
CALTECH = {"caltech-101.zip": "1c4623e54d69bf81683357f2c433faf068877327bd8e03dcaccf3d701762b2f6"}
CIFAR = {"cifar-10-python.tar.gz": "83526ace166a4416e36484cb8a06f5a90c0614d788403fefbd2adcc344c3c486"}


def has(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not all((MIRROR / name).exists() for name in names), reason=f"{' and '.join(names)} are not in {MIRROR}"
    )


@pytest.mark.slow
@has("caltech101/caltech-101.zip", "coop/split_zhou_Caltech101.json")
def test_caltech101_from_a_server_that_drops_the_connection(tmp_path: Path, server: Server, monkeypatch) -> None:
    (server.root / "caltech101").mkdir()
    for path in (MIRROR / "caltech101/caltech-101.zip", MIRROR / "coop/split_zhou_Caltech101.json"):
        (server.root / "caltech101" / path.name).symlink_to(path)
    server.drops["caltech101/caltech-101.zip"] = [0.3]
    monkeypatch.setenv("BENCH_MIRROR", server.url)

    manifest = build("caltech101", caltech101.Options(size=32, pins=CALTECH), caltech101.fetch, tmp_path / "data")

    ranges = [span for path, span in server.asked if path.endswith(".zip")]
    size = (MIRROR / "caltech101/caltech-101.zip").stat().st_size
    assert [bool(span) for span in ranges] == [False, True]
    assert 0.25 * size < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= 0.3 * size
    counts = {name: entry.count for name, entry in manifest.splits.items()}
    assert counts == {"train": 4128, "val": 1649, "test": 2465, "tecoa16": 8677}
    assert len(manifest.description.class_names) == 100
    assert manifest.description.class_names[:4] == ("face", "leopard", "motorbike", "accordion")
    assert min(manifest.splits["train"].per_class) == 16
    assert max(manifest.splits["train"].per_class) == 400

    train, test = (open_split(tmp_path / "data", manifest, name) for name in ("train", "test"))
    assert manifest.description.few_shot == coop.published_digests("caltech101")
    for seed in (1, 2, 3):
        rows = training_sample(manifest, train.labels, 16, seed)
        assert (np.bincount(train.labels[rows]) == 16).all()
    base, new = (coop.half(test.labels, manifest.description.base_classes, part)[0] for part in ("base", "new"))
    assert (len(base), len(new)) == (1549, 916)
    grey = sum(bool((image[0] == image[1:]).all()) for image in test.images)
    assert 0.02 < grey / len(test.images) < 0.08
    assert not (set(train.names) & set(test.names))


@pytest.mark.slow
@has("caltech101/caltech-101.zip", "coop/split_zhou_Caltech101.json")
def test_caltech101_from_the_archive_to_a_table_with_a_small_and_a_large_clip(tmp_path, server: Server, monkeypatch):
    """The suite ``leaderboards/caltech_mini`` with fewer images, steps and shots, by its own commands."""
    (server.root / "caltech101").mkdir()
    for path in (MIRROR / "caltech101/caltech-101.zip", MIRROR / "coop/split_zhou_Caltech101.json"):
        (server.root / "caltech101" / path.name).symlink_to(path)
    monkeypatch.setenv("BENCH_MIRROR", "")  # what --mirror sets is taken back after the test
    content = yaml.safe_load(Path("leaderboards/caltech_mini/benchmark.yaml").read_text())
    content["datasets"] = {name: {"pins": CALTECH, "splits": ["train", "test"]} for name in content["datasets"]}
    content["attacks"]["clean"] = {"threat_model": "none", "images_of": {"caltech101": 10, "caltech101_mini": 100}}
    content["attacks"]["pgd"] |= {"images": 100, "images_of": {}}
    content["attacks"]["pgd"]["options"] |= {"steps": 5}
    content["tracks"]["mini"]["defenses"]["prompt_tuning"]["options"] |= {"epochs": 2}
    content["tracks"]["vit_b_32"]["attacks"] = ["clean"]  # tests/attacks/test_paper_scale.py attacks that size
    for defense in ("linear_probe", "prompt_tuning"):
        content["tracks"]["vit_b_32"]["defenses"][defense]["tuning"] = {"shots": 1}
    suite = "leaderboards/caltech_mini/benchmark.yaml"
    monkeypatch.chdir(tmp_path)
    Path(suite).parent.mkdir(parents=True)
    Path(suite).write_text(yaml.safe_dump(content))
    for name in content["datasets"]:
        bench("fetch", name, "--suite", suite, "--mirror", server.url)
    assert [path for path, _ in server.asked if path.endswith(".zip")] == ["caltech101/caltech-101.zip"]
    for name in content["checkpoints"]:
        bench("checkpoint", name, "--suite", suite)
    for track in content["tracks"]:
        bench("defend", track, "--suite", suite)
        bench("evaluate", track, "--suite", suite)
    bench("collect", "--suite", suite)
    bench("table", "caltech_1", "--suite", suite)
    bench("analyse", "images", "--suite", suite)

    cells = pd.read_csv("leaderboards/caltech_mini/cells.csv")
    cells = cells[cells["attack"].isin(["clean", "pgd"])].set_index(["track", "defense", "attack"])
    assert set(cells["state"]) == {"done"}
    assert len(cells) == 9
    assert cells.loc[("mini", "linear_probe", "clean"), "value"] > 4, "chance is 1 %"
    assert cells.loc[("mini", "linear_probe", "pgd"), "value"] < cells.loc[("mini", "linear_probe", "clean"), "value"]
    index = pd.read_csv("leaderboards/caltech_mini/images.csv")
    few = index[(index["dataset"] == "caltech101_mini") & index["use"].str.startswith("tuning, 16 shots")]
    assert (few["class"].value_counts() == 16).all()
    assert len(few) == 1600
    assert "vit_b_32" in Path("leaderboards/caltech_mini/caltech_1.md").read_text()


def bench(*arguments: str) -> None:
    sys.argv = ["bench", *arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code, arguments


@has("cifar10/cifar-10-python.tar.gz")
def test_cifar10_in_the_official_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_MIRROR", str(MIRROR))
    options = cifar10.Options(size=32, pins=CIFAR)
    smaller = replace(cifar10.source(options), counts={"train": 10_000, "test": 2_000})
    manifest = build("cifar10", options, lambda chosen, folder: fetch_source(smaller, chosen, folder), tmp_path)
    assert manifest.description.class_names == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    test = open_split(tmp_path, manifest, "test")
    assert test.images.shape == (2_000, 3, 32, 32)
    assert min(manifest.splits["test"].per_class) > 100
    blue_sky = [test.images[test.labels == label].mean((0, 2, 3)) for label in (0, 6)]
    assert blue_sky[0][2] > blue_sky[0][0] > blue_sky[1][2], "planes are bluer than they are red, frogs are not"
