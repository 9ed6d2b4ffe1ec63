"""Mistakes of the user: one clear message that names the fix, exit code 2, and nothing lost."""

import errno
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from bench import cli
from tests.test_pipeline import SMALL

# Printed where a machine is slow.
PROGRESS = re.compile(r"\S.*: \d+/\d+, about \d+ s left")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small suite."""
    monkeypatch.chdir(tmp_path)
    write(SMALL)
    return tmp_path


def write(suite: dict) -> None:
    Path("benchmark.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))


def changed(**changes: object) -> dict:
    """The small suite with values replaced; a double underscore goes one level down."""
    suite = yaml.safe_load(yaml.safe_dump(SMALL))
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = suite
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return suite


def bench(*arguments: str) -> int:
    sys.argv = ["bench", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that must end with exit code 2 and without a traceback."""
    capsys.readouterr()
    assert bench(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not PROGRESS.fullmatch(line)]
    message = " ".join(" ".join(lines).split())
    assert message.startswith("error:")
    assert "Traceback" not in message
    return message


def test_an_unknown_id_names_the_nearest(folder, capsys) -> None:
    assert "did you mean 'shapes'" in refused(capsys, "fetch", "shape")
    assert "did you mean 'linear_probe'" in refused(capsys, "defend", "adversarial", "linear_prob", "clean")
    assert "did you mean 'pgd'" in refused(capsys, "evaluate", "adversarial", "none", "pdg")


def test_a_misspelt_key_names_the_nearest(folder, capsys) -> None:
    write(changed(protocol__batchsize=8))
    message = refused(capsys, "fetch", "shapes")
    assert "benchmark.yaml: protocol.batchsize" in message
    assert "did you mean 'batch_size'" in message


def test_a_misspelt_option_of_an_item_names_the_nearest(folder, capsys) -> None:
    write(changed(datasets__shapes={"train_per_clas": 3}))
    assert "did you mean 'train_per_class'" in refused(capsys, "fetch", "shapes")


def test_a_target_outside_the_dataset_is_told_before_any_training(folder, capsys) -> None:
    write(changed(checkpoints__badnet__target="banana"))
    assert bench("fetch", "shapes") == 0
    message = refused(capsys, "checkpoint", "badnet")
    assert "checkpoints.badnet.target" in message
    assert "'banana'" in message
    assert not Path("models/base/badnet").exists()


def test_data_that_was_not_fetched_names_the_command(folder, capsys) -> None:
    assert "bench fetch shapes" in refused(capsys, "checkpoint", "badnet")


def test_networks_that_the_suite_does_not_describe_are_told(folder, capsys) -> None:
    assert "benchmark.yaml: it has no entry 'steganography'" in refused(capsys, "steganography")


def test_a_loss_that_is_not_a_number_stops_with_the_setting_to_change(folder, capsys) -> None:
    write(changed(checkpoints__badnet__train={"learning_rate": 1e30, "epochs": 4, "batch_size": 16, "warmup_steps": 1}))
    assert bench("fetch", "shapes") == bench("fetch", "captions") == 0
    message = refused(capsys, "checkpoint", "badnet")
    assert "learning_rate" in message
    assert not Path("models/base/badnet").exists()


@pytest.fixture
def evaluable(folder: Path) -> Path:
    """A working folder in which ``none`` can be evaluated on the clean checkpoint."""
    for arguments in (("fetch", "shapes"), ("checkpoint", "clean"), ("defend", "adversarial", "none", "clean")):
        assert bench(*arguments) == 0
    return folder


def test_a_changed_byte_in_a_checkpoint_is_refused(evaluable, capsys) -> None:
    weights = Path("models/base/clean/weights.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    message = refused(capsys, "evaluate", "adversarial", "none", "clean")
    assert str(weights) in message


def test_weights_without_an_architecture_are_refused(evaluable, capsys) -> None:
    Path("models/base/clean/checkpoint.json").unlink()
    message = refused(capsys, "evaluate", "adversarial", "none", "clean")
    assert "architecture" in message
    assert "bench checkpoint clean" in message


def test_a_defense_that_diverges_is_a_state_and_the_rest_goes_on(evaluable, capsys) -> None:
    suite = changed(
        tracks__adversarial__defenses={
            "none": {},
            "advpt": {"options": {"learning_rate": 1e30, "epochs": 3, "context": 2}},
        }
    )
    suite["tracks"]["adversarial"]["defenses"]["advpt"]["options"]["weight_decay"] = 1e30
    write(suite)
    assert bench("defend", "adversarial", "advpt", "clean") == 0
    assert bench("evaluate", "adversarial", "advpt", "clean") == 0
    assert "diverged" in capsys.readouterr().err


def test_a_full_disk_in_the_middle_of_a_cell_loses_nothing(evaluable, capsys, monkeypatch) -> None:
    written = list[int]()
    really = os.fsync

    def fill_up(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        really(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    message = refused(capsys, "evaluate", "adversarial", "none", "pgd")
    assert "full" in message
    (part,) = Path(".bench").glob("cells/*/*.part.jsonl")
    kept = [line for line in part.read_text().splitlines() if line]
    assert len(kept) >= 3
    monkeypatch.setattr(os, "fsync", really)
    assert bench("evaluate", "adversarial", "none", "pgd") == 0
    after_fill = Path("results/adversarial/none/pgd/clean.shapes.test.seed1.json").read_text()
    assert '"state": "done"' in after_fill


def test_a_limited_look_is_marked_and_writes_no_results(evaluable) -> None:
    assert bench("evaluate", "adversarial", "none", "clean", "--limit", "5") == 0
    assert not Path("results/adversarial").exists()
