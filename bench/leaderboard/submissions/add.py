"""Taking a submission into the tree, and making the boards again from what git holds: no GPU and no data is needed."""

import shutil
from pathlib import Path

import yaml

from bench.config import Suite
from bench.errors import UserError
from bench.files import write_text
from bench.leaderboard.collect import write_cells
from bench.leaderboard.submissions.check import check
from bench.leaderboard.submissions.read import DESCRIPTION, read_submission
from bench.leaderboard.table import write_table
from bench.paths import Paths


def add(folder: Path, suite: Suite, paths: Paths, *, recheck: bool = False) -> None:
    """Check a submission, copy it beside the others, and make the boards again.

    Args:
        folder: The submission, which may be in its place already.
        suite: What it is submitted to.
        paths: Where the boards are.
        recheck: Also show adversarial images to the row's own model, and note that this was done.

    Raises:
        UserError: The submission is refused, with all reasons; or another one has its name.
    """
    faults = check(folder, suite, paths, recheck=recheck)
    if faults:
        raise UserError(f"{folder} is refused:\n" + "\n".join(faults))
    target = paths.submissions / read_submission(folder).name
    if folder.resolve() != target.resolve():
        if target.exists():
            raise UserError(f"{target} is there already; give the new submission another name, or remove the old one")
        shutil.copytree(folder, target)
    if recheck:
        content = yaml.safe_load((target / DESCRIPTION).read_bytes()) | {"rechecked": True}
        write_text(target / DESCRIPTION, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    rebuild(suite, paths)


def rebuild(suite: Suite, paths: Paths) -> None:
    """Make ``cells.csv`` and all tables from the committed records and the submissions."""
    write_cells(suite, paths, committed=True)
    for name in suite.tables:
        write_table(suite, name, paths)
