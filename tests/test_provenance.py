"""What a record says about the code that made it."""

import subprocess
from pathlib import Path

import pytest

from bench import provenance


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with code, settings and what a pipeline writes, all of it committed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "_facts", provenance._facts.__wrapped__)
    for name in ("bench/item.py", "leaderboards/paper/benchmark.yaml", "leaderboards/cells.csv", "dvc.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before\n")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *command], check=True)
    return tmp_path


@pytest.mark.parametrize("written", ["dvc.lock", "leaderboards/cells.csv", "bench/untracked.py"])
def test_what_a_pipeline_writes_does_not_make_a_result_dirty(repository: Path, written: str) -> None:
    (repository / written).write_text("after\n")
    found = provenance.provenance()
    assert len(found.commit) == 40
    assert not found.dirty


@pytest.mark.parametrize("edited", ["bench/item.py", "leaderboards/paper/benchmark.yaml"])
def test_edited_code_and_settings_do(repository: Path, edited: str) -> None:
    (repository / edited).write_text("after\n")
    assert provenance.provenance().dirty


def test_outside_a_repository_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(provenance, "_facts", provenance._facts.__wrapped__)
    assert provenance.provenance().commit == "unknown"
