"""The submissions in the tree meet all rules, and the boards in the tree are those that the records in git give."""

from pathlib import Path

import pytest

from bench.config import Suite, load_suite
from bench.datasets.store import build
from bench.items import item_options, load_item
from bench.leaderboard.submissions.add import rebuild
from bench.leaderboard.submissions.check import check
from bench.leaderboard.submissions.read import Submission, read_submissions
from bench.paths import Paths, paths_for

ROOT = Path(__file__).parents[3]
SUITES = [
    Path("benchmark.yaml"),
    *sorted(path.relative_to(ROOT) for path in ROOT.glob("leaderboards/*/benchmark.yaml")),
]

COMMITTED = [suite for suite in SUITES if (ROOT / paths_for(suite).records).exists()]


@pytest.fixture
def paths(request, tmp_path, monkeypatch) -> Paths:
    """Of a suite of the repository, with images in a folder of their own."""
    monkeypatch.chdir(ROOT)
    return paths_for(request.param)._replace(data=tmp_path / "data")


@pytest.mark.parametrize("paths", SUITES, indirect=True, ids=str)
def test_every_submission_in_the_tree_meets_all_rules(paths):
    suite = load_suite(paths.suite)
    faults = dict[str, list[str]]()
    for submission in read_submissions(paths.submissions):
        if submission.description.images and not submission.description.rechecked:
            fetch(suite, submission, paths.data)
        faults[submission.name] = check(submission.folder, suite, paths)
    assert {name: found for name, found in faults.items() if found} == {}


def fetch(suite: Suite, submission: Submission, data: Path) -> None:
    """The datasets whose images a submission has changed."""
    for dataset in {record.identity.cell.dataset for record in submission.records} & set(suite.datasets):
        module = load_item("datasets", dataset, "the suite")
        build(dataset, item_options(module, suite.datasets[dataset], "the suite"), module.fetch, data)


@pytest.mark.parametrize("paths", COMMITTED, indirect=True, ids=str)
def test_the_boards_in_the_tree_come_out_of_git_alone(paths, tmp_path):
    expected = {path.name: path.read_bytes() for path in paths.boards.glob("*.*") if path.suffix != ".yaml"}
    boards = tmp_path / paths.boards.name
    boards.mkdir()
    for folder in ("records", "submissions", "published"):
        if (paths.boards / folder).exists():
            (boards / folder).symlink_to((paths.boards / folder).resolve())
    rebuild(load_suite(paths.suite), paths._replace(boards=boards))
    made = {path.name: path.read_bytes() for path in boards.glob("*.*")}
    assert made == {name: expected.get(name) for name in made}


def test_strangers_are_told_how_to_submit():
    assert (ROOT / "leaderboards" / "submissions" / "README.md").exists()
