"""``bench evaluate --model my_file.py:load``: a user's own model under the suite's attacks."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from bench import cli
from bench.config import load_suite
from bench.evaluation.external import evaluate_external, load_external
from bench.evaluation.record import Record
from bench.paths import paths_for
from bench.provenance import provenance

MODEL = """
import torch
from torch import nn


def load():
    torch.manual_seed({seed})
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 12))


def quantised():
    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = load()

        def forward(self, images):
            return self.net((images * 8).round() / 8)

    return Quantised()


def saturated():
    class Saturated(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = load()

        def forward(self, images):
            return 1e4 * self.net(images)

    return Saturated()


def noisy():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = load()

        def forward(self, images):
            return self.net(images + 0.05 * torch.randn_like(images))

    return Noisy()


def number():
    return 3


def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))


def broken():
    class Broken(nn.Module):
        def forward(self, images):
            if images.requires_grad:
                raise ValueError("no gradients here")
            return torch.zeros(len(images), 12)

    return Broken()
"""
SUITE = {
    "protocol": {"version": 1, "batch_size": 8, "seeds": [1], "shots": 1},
    "datasets": {"shapes": {"train_per_class": 1, "val_per_class": 1, "test_per_class": 2}},
    "checkpoints": {}, "tracks": {}, "tables": {},
    "attacks": {
        "clean": {"threat_model": "none"},
        "pgd": {"threat_model": "white_box", "options": {"eps": 8, "steps": 5}},
        "cw": {"threat_model": "white_box", "options": {"eps": 8, "steps": 5}},
        "autoattack": {"threat_model": "white_box", "options": {"eps": 8}, "images": 4},
        "grey": {"threat_model": "grey_box", "method": "pgd"},
        "trigger": {"threat_model": "none"},
        "feature_attack": {"threat_model": "white_box"},
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("benchmark.yaml").write_text(yaml.safe_dump(SUITE))
    Path("my_file.py").write_text(MODEL.format(seed=1))
    bench("fetch", "shapes")
    return tmp_path


def bench(*arguments: str) -> int:
    sys.argv = ["bench", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def run(*attacks: str, function: str = "load", limit: int | None = None) -> list[Record]:
    suite, paths = load_suite(Path("benchmark.yaml")), paths_for()
    return evaluate_external(suite, f"my_file.py:{function}", "shapes", "test", attacks, paths, limit)


def test_the_command_prints_and_stores_the_same_records_as_a_track(folder: Path, capsys) -> None:
    assert bench("evaluate", "--model", "my_file.py:load", "--dataset", "shapes", "--attacks", "clean,pgd") == 0
    told = capsys.readouterr().err
    assert "clean on external.shapes.test.seed1: done CA" in told
    assert "pgd on external.shapes.test.seed1: done RA" in told
    stored = Record.model_validate_json(Path(".bench/external/my_file.load/pgd.shapes.test.json").read_text())
    assert (stored.n, stored.state, stored.metric) == (24, "done", "RA")
    assert stored.low is not None
    assert stored.outcome is not None
    assert stored.provenance == provenance()
    assert (stored.identity.cell.checkpoint, stored.identity.cell.defense) == ("external", "my_file.load")


def test_a_second_run_computes_nothing_and_another_file_or_weights_do(folder: Path, monkeypatch) -> None:
    from bench.evaluation import external as runner

    computed = list[str]()
    really = runner.compute
    monkeypatch.setattr(runner, "compute", lambda *a: computed.append(a[0].identity.cell.attack) or really(*a))
    first, second = run("clean")[0], run("clean")[0]
    assert (computed, first) == (["clean"], second)
    Path("my_file.py").write_text(MODEL.format(seed=2))
    other = run("clean")[0]
    assert len(computed) == 2
    assert first.identity.artefact != other.identity.artefact
    assert first.identity.checkpoint != other.identity.checkpoint


@pytest.mark.parametrize(
    ("function", "caught"),
    [("quantised", "quantised_input"), ("saturated", "saturated_logits"), ("noisy", "randomised")],
)
def test_a_model_that_masks_its_gradients_is_flagged_on_every_white_box_record(
    folder: Path, function: str, caught: str
) -> None:
    attacks = ("pgd", "cw", "autoattack")
    assert all(record.flags == () for record in run(*attacks))
    for record in run(*attacks, function=function):
        assert record.state == "done"
        assert caught in record.flags, record.identity.cell.attack
        stored = Path(f".bench/external/my_file.{function}/{record.identity.cell.attack}.shapes.test.json")
        assert Record.model_validate_json(stored.read_text()).flags == record.flags


def test_a_quick_look_is_not_written_as_a_result(folder: Path) -> None:
    (record,) = run("clean", limit=12)
    assert (record.n, record.identity.cell.limit) == (12, 12)
    assert not Path(".bench/external").exists()


def test_what_the_models_own_code_raises_is_a_state(folder: Path) -> None:
    (record,) = run("pgd", function="broken")
    assert (record.state, record.reason) == ("failed", "ValueError: no gradients here")


def test_a_file_that_was_just_changed_is_read_anew(folder: Path) -> None:
    """Its time and length are as before, which is how Python's cache of compiled files knows a file again."""
    path = Path("my_file.py")
    first, times = load_external("my_file.py:load"), path.stat()
    path.write_text(MODEL.format(seed=2))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert load_external("my_file.py:load").weights != first.weights


def test_embeddings_of_a_model_that_may_be_no_clip_are_a_state_too(folder: Path) -> None:
    (record,) = run("feature_attack")
    assert record.state == "failed"
    assert "embeddings" in record.reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "my_file.py", "--dataset", "shapes", "--attacks", "pgd"), "such as my_file.py:load"),
        (("--model", "no.py:load", "--dataset", "shapes", "--attacks", "pgd"), "no.py is missing"),
        (("--model", "my_file.py:laod", "--dataset", "shapes", "--attacks", "pgd"), "did you mean 'load'"),
        (("--model", "my_file.py:number", "--dataset", "shapes", "--attacks", "pgd"), "returned a int"),
        (("--model", "my_file.py:narrow", "--dataset", "shapes", "--attacks", "pgd"), "which has 12 classes"),
        (("--model", "my_file.py:load", "--dataset", "shape", "--attacks", "pgd"), "did you mean 'shapes'"),
        (("--model", "my_file.py:load", "--dataset", "shapes", "--attacks", "pdg"), "did you mean 'pgd'"),
        (("--model", "my_file.py:load", "--dataset", "shapes", "--attacks", "grey"), "no undefended model"),
        (("--model", "my_file.py:load", "--dataset", "shapes", "--attacks", "trigger"), "no planted trigger"),
        (("--dataset", "shapes"), "or --model FILE.py:FUNCTION"),
    ],
)
def test_mistakes_end_in_one_message(folder: Path, capsys, arguments: tuple[str, ...], message: str) -> None:
    capsys.readouterr()
    assert bench("evaluate", *arguments) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith("error:")
    assert message in told


def test_a_file_may_import_others_beside_it(folder: Path) -> None:
    Path("beside_it.py").write_text("SIZE = 12\n")
    Path("importing.py").write_text(
        "from torch import nn\nfrom beside_it import SIZE\n\n\n"
        "def load():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, SIZE))\n"
    )
    path = list(sys.path)
    external = load_external("importing.py:load")
    assert (external.name, sys.path) == ("importing.load", path)
    assert not external.model.training
    assert not any(parameter.requires_grad for parameter in external.model.parameters())
