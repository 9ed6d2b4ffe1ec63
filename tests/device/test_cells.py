"""Cells from tuning to the verdict on the device, beside the same on the processor."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.backdoors.checkpoint import load_checkpoint
from bench.config import Suite
from bench.defenses.fitting import fit_all
from bench.evaluation import compute
from bench.evaluation.record import Record
from bench.evaluation.run import evaluate
from bench.paths import Paths
from tests.device.conftest import CONTENT
from tests.pretend_device import NAME, pretending


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("defense", CONTENT["tracks"]["robust"]["defenses"])
def test_every_defense_is_tuned_and_evaluated_as_on_the_processor(
    defense: str, suite: Suite, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if defense != "none":
        # These are the same passes again, many times over; one model is enough.
        monkeypatch.setattr(compute, "masking_flags", lambda *_: frozenset[str]())
    here, there = (below(paths, tmp_path / name) for name in ("here", "there"))
    tune(suite, defense, here)
    expected = verdict(suite, defense, here)
    monkeypatch.setenv("BENCH_DEVICE", NAME)
    with pretending():
        tune(suite, defense, there)
    # What is loaded takes the place of values that layers draw where they are made.
    with pretending(drawn=True):
        record = verdict(suite, defense, there)
    assert record.state == "done", record.reason
    assert record.provenance.device == "a pretended accelerator"
    assert record.cost.peak_memory_mb == 3
    for name, tensor in tensors(here, defense).items():
        torch.testing.assert_close(tensors(there, defense)[name], tensor, rtol=1e-2, atol=1e-3)
    assert (record.outcome, record.flags) == (expected.outcome, expected.flags)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("defense", ["none", "rvpt", "nap_tuning", "cleanclip", "tecoa_r_adapt_m"])
def test_cuda_agrees_with_the_processor(
    defense: str, suite: Suite, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (below(paths, tmp_path / name) for name in ("here", "there"))
    tune(suite, defense, here)
    expected = verdict(suite, defense, here)
    monkeypatch.setenv("BENCH_DEVICE", "cuda")
    tune(suite, defense, there)
    record = verdict(suite, defense, there)
    assert record.state == "done", record.reason
    assert record.provenance.device == torch.cuda.get_device_name()
    for name, tensor in tensors(here, defense).items():
        torch.testing.assert_close(tensors(there, defense)[name], tensor, rtol=5e-2, atol=5e-3)
    assert record.outcome is not None
    assert expected.outcome is not None
    pairs = zip(record.outcome.predictions, expected.outcome.predictions, strict=True)
    # Other processors round differently; an image at the edge may tip over.
    assert sum(one != other for one, other in pairs) <= 1


def below(paths: Paths, folder: Path) -> Paths:
    """The same data and checkpoints; what is tuned and evaluated goes into ``folder``."""
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "base").symlink_to(paths.models / "base")
    return paths._replace(models=folder / "models", store=folder / "store", results=folder / "results")


def tune(suite: Suite, defense: str, paths: Paths) -> None:
    fit_all(suite, "robust", defense, "clean", load_checkpoint(paths.checkpoint("clean")), paths)


def verdict(suite: Suite, defense: str, paths: Paths) -> Record:
    (record,) = evaluate(suite, "robust", defense, "pgd", paths)
    return record


def tensors(paths: Paths, defense: str) -> dict[str, torch.Tensor]:
    (folder,) = paths.defended("robust", defense, "clean").iterdir()
    return {
        f"{path.stem}.{name}": tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
