"""Where a suite stands: from hand-written records, and from a real evaluation that was killed."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench.config import Suite
from bench.evaluation.cells import cells_of
from bench.evaluation.record import Cell
from bench.evaluation.store import Batch, Store
from bench.overview.cells import CellState, cell_states
from bench.overview.models import checkpoint_states, defense_states, stage
from bench.overview.status import show_status, unattributed
from bench.paths import Paths


def only_cell(suite: Suite, track: str, defense: str, attack: str) -> Cell:
    (cell,) = cells_of(suite, track, defense, attack)
    return cell


def state_of(suite: Suite, paths: Paths, cell: Cell) -> CellState:
    (state,) = (state for state in cell_states(suite, paths) if state.cell == cell)
    return state


def test_counts_and_commands_of_hand_written_records(
    suite: Suite, paths: Paths, write_record: Callable[..., Path], page: Console
) -> None:
    write_record(suite, "backdoor", only_cell(suite, "backdoor", "none", "clean"))
    write_record(suite, "backdoor", only_cell(suite, "backdoor", "none", "trigger"), "attack_failed", "ASR 3.0 %")
    write_record(suite, "adversarial", only_cell(suite, "adversarial", "none", "pgd"), "failed", "OSError: [x] full")
    write_record(suite, "adversarial", only_cell(suite, "adversarial", "rvpt", "pgd"), "diverged", "the loss is nan")
    states = cell_states(suite, paths)
    assert Counter((state.track, state.state) for state in states) == {
        ("backdoor", "done"): 1,
        ("backdoor", "attack_failed"): 1,
        ("backdoor", "missing"): 2,
        ("adversarial", "failed"): 1,
        ("adversarial", "diverged"): 1,
        ("adversarial", "missing"): 4,
    }
    assert not show_status(suite, paths, page)
    text = page.file.getvalue()
    assert "9 of 10 cells are not done" in text
    assert "dvc repro -f -s evaluate_adversarial@none-pgd\n" in text
    assert "clean.shapes.test.seed1: OSError: [x] full" in text
    assert "change checkpoints.badnet in benchmark.yaml, then: dvc repro evaluate_backdoor@none" in text
    assert "change tracks.adversarial.defenses.rvpt in benchmark.yaml, then: " in text
    assert "1 cell    dvc repro evaluate_adversarial@rvpt-autoattack\n" in text


def test_a_whole_suite_is_done(suite: Suite, paths: Paths, write_record: Callable[..., Path], page: Console) -> None:
    for state in cell_states(suite, paths):
        write_record(suite, state.track, state.cell)
    assert show_status(suite, paths, page)
    assert "0 of 10 cells are not done" in page.file.getvalue()


def test_a_record_made_with_other_settings_is_stale(
    content: dict, read_suite: Callable[[dict], Suite], paths: Paths, write_record: Callable[..., Path]
) -> None:
    suite = read_suite(content)
    cell = only_cell(suite, "adversarial", "none", "pgd")
    write_record(suite, "adversarial", cell)
    content["attacks"]["pgd"]["images"] = 24
    content["attacks"]["pgd"]["options"]["eps"] = 2
    state = state_of(read_suite(content), paths, cell)
    assert state.state == "stale"
    assert state.reason.endswith("attacks.pgd.images, attacks.pgd.options")


def test_a_damaged_record_is_missing(suite: Suite, paths: Paths, write_record: Callable[..., Path]) -> None:
    cell = only_cell(suite, "adversarial", "none", "pgd")
    write_record(suite, "adversarial", cell).write_text("{")
    assert state_of(suite, paths, cell).state == "missing"


def test_a_suite_in_a_folder_of_its_own_names_its_pipeline(suite: Suite, paths: Paths) -> None:
    elsewhere = paths._replace(suite=Path("leaderboards/rvpt/benchmark.yaml"))
    assert (
        checkpoint_states(suite, elsewhere)["clean"].command == "dvc repro leaderboards/rvpt/dvc.yaml:checkpoint@clean"
    )


def test_checkpoints_and_artefacts_show_gate_and_divergence(suite: Suite, paths: Paths, page: Console) -> None:
    def card(path: Path, content: dict) -> None:
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))

    gate = {"passed": False, "asr": 12.0, "ca": 80.0, "clean_ca": 91.0, "clean_asr": 0.5, "keys": {"text": 3.0}}
    card(paths.checkpoint("badnet") / "checkpoint.json", {"gate": gate})
    card(paths.checkpoint("clean") / "checkpoint.json", {"gate": None})
    card(paths.defended("adversarial", "none", "clean") / "any.seed1" / "artefact.json", {"state": "done"})
    diverged = {"state": "diverged", "reason": "the loss is nan"}
    card(paths.defended("adversarial", "rvpt", "clean") / "shapes.seed1" / "artefact.json", diverged)
    (paths.models / "defended" / "backdoor" / "none" / ".badnet.partial").mkdir(parents=True)
    assert [made.state for made in checkpoint_states(suite, paths).values()] == ["present", "attack_failed"]
    assert {key[:2]: made.state for key, made in defense_states(suite, paths).items()} == {
        ("backdoor", "none"): "begun",
        ("backdoor", "cleanclip"): "missing",
        ("adversarial", "none"): "present",
        ("adversarial", "rvpt"): "diverged",
    }
    show_status(suite, paths, page)
    text = page.file.getvalue()
    assert "2 of 6 checkpoints and tuned defenses are ready" in text
    assert "gate failed, ASR 12.0 %, CA 80.0 %; on the clean model 0.5 % and 91.0 %; ASR with text key 3.0 %" in text
    assert "shapes.seed1: the loss is nan" in text
    assert "dvc repro defend_backdoor@cleanclip\n" in text


def test_a_pipeline_may_have_stages_for_more_than_one_cell_each(paths: Paths) -> None:
    assert stage(paths, "evaluate", "adversarial", "rvpt", "pgd") == "evaluate_adversarial@rvpt-pgd"
    assert stage(paths, "evaluate", "backdoor", "rvpt", "trigger") == "evaluate_backdoor@rvpt"
    Path("dvc.yaml").write_text("stages: {defend: {}, evaluate: {}, evaluate_large: {}}")
    assert stage(paths, "evaluate", "large", "rvpt", "trigger") == "evaluate_large"
    assert stage(paths, "evaluate", "backdoor", "rvpt", "trigger") == "evaluate@backdoor"
    assert stage(paths, "defend", "backdoor", "rvpt") == "defend@backdoor"


def test_batches_of_unknown_cells_are_counted(suite: Suite, paths: Paths, page: Console) -> None:
    Store(paths.store).add_batch("ab" * 32, Batch([0], [0], [], 1, 0, 0.1))
    assert len(unattributed(paths, cell_states(suite, paths))) == 1
    show_status(suite, paths, page)
    assert "1 unfinished cells belong to other suites" in page.file.getvalue()


def test_status_of_a_suite_that_has_not_begun_loads_no_torch(suite: Suite, paths: Paths) -> None:
    # In a process of its own: other tests have loaded torch into this one.
    code = (
        "import sys; from pathlib import Path; from bench.config import load_suite; from bench.paths import paths_for\n"
        "from bench.overview.status import show_status\n"
        "path = Path('benchmark.yaml'); show_status(load_suite(path), paths_for(path)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_killed_evaluation_is_running_then_partial_then_stored_then_done(
    suite: Suite, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys computed here are the evaluator's: else its batches would not be found."""
    from bench.backdoors.checkpoint import load_checkpoint
    from bench.backdoors.make import make_checkpoint
    from bench.datasets import shapes
    from bench.datasets.store import build
    from bench.defenses.fitting import fit_all
    from bench.evaluation.run import evaluate

    build("shapes", shapes.Options(**suite.datasets["shapes"]), shapes.fetch, paths.data)
    make_checkpoint("clean", suite.checkpoints["clean"], paths)
    fit_all(suite, "adversarial", "none", "clean", load_checkpoint(paths.checkpoint("clean")), paths)
    cell = only_cell(suite, "adversarial", "none", "clean")
    keep, kept = Store.add_batch, list[Batch]()

    def kill_after_two(self: Store, key: str, batch: Batch) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(batch)
        keep(self, key, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add_batch", kill_after_two)
        with pytest.raises(KeyboardInterrupt):
            evaluate(suite, "adversarial", "none", "clean", paths)
    running = state_of(suite, paths, cell)
    assert (running.state, running.images) == ("running", 16)
    assert unattributed(paths, [running]) == []
    (part,) = Store(paths.store).unfinished()
    os.utime(part, (time.time() - 200,) * 2)
    assert state_of(suite, paths, cell)[2:5] == ("partial", "", 16)
    evaluate(suite, "adversarial", "none", "clean", paths)
    assert state_of(suite, paths, cell).state == "done"
    shutil.rmtree(paths.results)
    assert state_of(suite, paths, cell).state == "stored"
