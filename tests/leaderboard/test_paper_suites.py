"""The papers' suites: valid, small enough for DVC, and set beside every number that the papers print."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.config import Suite, load_suite
from bench.leaderboard.collect import write_cells
from bench.leaderboard.join import join
from bench.leaderboard.pivot import pivot
from bench.leaderboard.position import positions
from bench.leaderboard.standing import with_worst_known
from bench.leaderboard.verify import read_cells
from bench.leaderboard.worst import WORST
from bench.overview.check import check_suite
from bench.overview.plan import count_stages
from bench.paths import Paths
from tests.leaderboard.published import PAPERS, folder, published

ROOT = Path(__file__).parents[2]
MOST_STAGES = 150
# Section V-E of NAP-Tuning has four numbers where the running text has eighteen.
RUNNING_TEXT = "nap_tuning/text"


def suite_file(paper: str) -> Path:
    return ROOT / "leaderboards" / paper / "benchmark.yaml"


@pytest.fixture
def at_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("at_top")
@pytest.mark.parametrize("paper", PAPERS)
def test_every_option_is_valid(paper: str) -> None:
    path = suite_file(paper).relative_to(ROOT)
    assert check_suite(load_suite(path), path) == []


def test_dvc_reads_the_pipelines_and_finds_as_many_stages_as_the_plan(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "leaderboards", tmp_path / "leaderboards", ignore=shutil.ignore_patterns("records"))
    run = {"cwd": tmp_path, "check": True, "capture_output": True, "text": True}
    dvc = str(Path(sys.executable).parent / "dvc")
    subprocess.run([dvc, "init", "--no-scm", "--quiet"], **run)
    files = [f"leaderboards/{paper}/dvc.yaml" for paper in PAPERS]
    listed = subprocess.run([dvc, "stage", "list", "--name-only", *files], **run).stdout.splitlines()
    for paper, file in zip(PAPERS, files, strict=True):
        stages = sum(line.startswith(f"{file}:") for line in listed)
        assert 0 < stages <= MOST_STAGES
        assert stages == count_stages(tmp_path / file, suite_file(paper)), paper


def measured_nothing(suite: Suite, paper: str, folder: Path) -> Paths:
    """Collect the suite's cells, none of which has been computed."""
    paths = Paths(suite_file(paper), *(folder / name for name in ("data", "models", "results", "boards/own", ".bench")))
    for other in PAPERS:
        (folder / "boards" / other).mkdir(parents=True)
        (folder / "boards" / other / "published").symlink_to(ROOT / "leaderboards" / other / "published")
    write_cells(suite, paths)
    return paths


@pytest.mark.parametrize("paper", PAPERS)
def test_each_published_number_of_a_mirrored_table_stands_beside_a_cell(paper: str, tmp_path: Path) -> None:
    suite = load_suite(suite_file(paper))
    paths = measured_nothing(suite, paper, tmp_path)
    cells = with_worst_known(read_cells(paths.boards / "cells.csv"))
    cells = cells[cells["attack"].isin([*suite.attacks, WORST])]
    for name, spec in suite.tables.items():
        joined = join(suite, spec, paths, name)
        found = positions(pivot(cells, spec, name), joined)
        if joined is None:
            continue
        left = joined.unmeasured(position.published for position in found.values())
        if spec.published == RUNNING_TEXT:
            assert len(joined.lines) - len(left) == 4
        else:
            # A gain is the difference of two numbers that stand here already.
            assert all(metric.endswith("_gain") for metric in left["metric"]), (name, left)


@pytest.mark.parametrize("paper", PAPERS)
def test_every_table_of_the_paper_with_accuracies_is_mirrored(paper: str) -> None:
    suite = load_suite(suite_file(paper))
    mirrored = {table.published.partition("/")[2] for table in suite.tables.values() if table.published} | {"text"}
    lines = published(paper)
    of_cells = set(lines[lines["metric"].isin(["CA", "ASR", "RA", "CU"])]["table"])
    assert of_cells - mirrored == set(), folder(paper)


def test_cleansight_has_not_been_run_at_its_own_scale_and_its_tables_say_so(tmp_path: Path) -> None:
    suite = load_suite(suite_file("cleansight"))
    paths = measured_nothing(suite, "cleansight", tmp_path)
    cells = read_cells(paths.boards / "cells.csv")
    assert set(cells["state"]) == {"missing"}
    committed = read_cells(ROOT / "leaderboards" / "cleansight" / "cells.csv")
    assert committed.equals(cells)
