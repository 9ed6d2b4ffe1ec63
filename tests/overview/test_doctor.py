"""Checks of the machine: each that fails names its fix."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from bench.config import Suite
from bench.datasets import shapes
from bench.datasets.store import build
from bench.files import sha256_of
from bench.overview import doctor as doctor_module
from bench.overview.doctor import dataset_check, doctor, weights_check
from bench.overview.machine import device_check, packages_check, python_check, space_check, tool_checks
from bench.paths import Paths


def test_datasets_name_what_is_wrong_and_the_command(suite: Suite, paths: Paths) -> None:
    absent = dataset_check("shapes", paths)
    assert (absent.level, absent.what, absent.fix) == ("fault", "dataset shapes: not fetched", "bench fetch shapes")
    build("shapes", shapes.Options(**suite.datasets["shapes"]), shapes.fetch, paths.data)
    assert dataset_check("shapes", paths).level == "well"
    (paths.data / "shapes" / "val.labels.npy").unlink()
    (paths.data / "shapes" / "test.images.npy").write_bytes(b"other")
    wrong = dataset_check("shapes", paths)
    assert wrong.what == "dataset shapes: missing: val.labels.npy; differing: test.images.npy"
    assert wrong.fix == "bench fetch shapes"
    (paths.data / "manifests" / "shapes.json").write_text("{")
    assert "damaged" in dataset_check("shapes", paths).what


def test_another_suite_is_named_in_the_fix(paths: Paths) -> None:
    other = paths._replace(suite=Path("leaderboards/rvpt/benchmark.yaml"))
    assert dataset_check("shapes", other).fix == "bench fetch shapes --suite leaderboards/rvpt/benchmark.yaml"


def test_shipped_weights_must_be_those_of_the_card(tmp_path: Path) -> None:
    weights, card = tmp_path / "weights.safetensors", tmp_path / "card.json"
    assert "weights.safetensors and card.json missing" in weights_check(tmp_path).what
    weights.write_bytes(b"tensors")
    card.write_text(json.dumps({"sha256": sha256_of(weights)}))
    assert weights_check(tmp_path).level == "well"
    weights.write_bytes(b"changed")
    check = weights_check(tmp_path)
    assert check.level == "fault"
    assert "bench pretrain" in check.fix


@pytest.mark.parametrize(
    ("version", "level"), [((3, 10), "fault"), ((3, 11), "well"), ((3, 13), "well"), ((3, 14), "fault")]
)
def test_python_version(version: tuple[int, int], level: str) -> None:
    assert python_check(version).level == level


def test_little_space_is_a_warning() -> None:
    assert space_check("disk", 4.9, "free some").level == "warning"
    assert space_check("disk", 4.9, "free some").fix == "free some"
    assert space_check("disk", 5.1, "free some").fix == ""


def test_packages_are_held_against_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    assert packages_check(lock).level == "warning"
    lock.write_text(
        "typer==0.0.1 ; python_version > '3' \\\n    --hash=sha256:0\nnot-installed==1.0 ; sys_platform == 'win32'\n"
    )
    check = packages_check(lock)
    assert check.level == "warning"
    assert "typer" in check.what
    assert "locked: 0.0.1" in check.what
    assert "not-installed" not in check.what
    assert check.fix == f"pip install --require-hashes -r {lock}"


def test_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixes = {check.what: check.fix for check in tool_checks(tmp_path)}
    assert fixes["not a git repository"].startswith("git init")
    assert fixes["DVC is not initialised here"] == "dvc init"
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".dvc").mkdir()
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "dvc" else f"/bin/{tool}")
    assert [(check.level, check.what) for check in tool_checks(tmp_path)] == [
        ("well", "git repository"),
        ("fault", "not on the PATH: dvc"),
        ("well", "DVC initialised"),
    ]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert next(tool_checks(tmp_path)).fix == "install git"


def test_doctor_prints_ticks_and_crosses_and_says_whether_all_is_well(
    suite: Suite, paths: Paths, page: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not doctor(suite, paths, page)
    assert "✓ Python 3." in page.file.getvalue()
    assert "✗ dataset shapes: not fetched\n    bench fetch shapes\n" in page.file.getvalue()
    fine = [check for check in doctor_module.checks(suite, paths) if check.level != "fault"]
    monkeypatch.setattr(doctor_module, "checks", lambda suite, paths: iter(fine))
    assert doctor(suite, paths, page)


def test_the_device_that_computes_is_told_and_a_wrong_one_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "; computes on cpu; " in device_check().what
    monkeypatch.setenv("BENCH_DEVICE", "gpu")
    check = device_check()
    assert (check.level, check.what) == (
        "fault",
        "BENCH_DEVICE: 'gpu' is not a device; set cpu, cuda, cuda:1 or mps",
    )
    assert check.fix.startswith("unset BENCH_DEVICE")
