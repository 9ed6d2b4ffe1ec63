"""The settings of defenses side by side, as configured, and beside the paper's."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.analyses import coefficients
from bench.analyses.contract import Source
from bench.analyses.run import read_frame, to_csv
from bench.config import Suite, load_suite
from bench.errors import UserError
from bench.paths import paths_for
from tests.analyses.conftest import CONTENT, MINI

ROOT = Path(__file__).parents[2]
FORMS = {
    "none": {},
    "r_adapt": {"options": {"cutoff": None}},
    "guided": {"method": "tecoa+r_adapt_m", "options": {"r_adapt_m": {"cutoff": 30}}},
    "r_adapt_plus": {},
}


def suite_of(architecture: dict[str, str], source: Source) -> Source:
    robust = CONTENT["tracks"]["robust"] | {"checkpoints": ["clean"], "defenses": FORMS}
    checkpoints = {"clean": {"base": architecture, "trigger": "none"}}
    content = CONTENT | {"checkpoints": checkpoints, "tracks": {"robust": robust}}
    return source._replace(suite=Suite.model_validate(content))


def given(*names: str, **changes: Any) -> coefficients.Options:
    models = {name: {"track": "robust", "defense": name, "checkpoint": "clean"} for name in names}
    return coefficients.Options.model_validate({"models": models} | changes)


def test_defaults_are_the_papers_and_what_the_suite_says_takes_their_place(source: Source, tmp_path: Path) -> None:
    options = given("r_adapt", "guided", "r_adapt_plus")
    frame = coefficients.measure(suite_of(MINI, source), options)
    found = {(line.setting, line.model): line.value for line in frame.itertuples()}
    assert [found["alpha", name] for name in options.models] == [1.2, 1.2, 0.8]
    assert [found["beta", name] for name in options.models] == [-0.8, 0.0, 0.2]
    assert [found["D0", name] for name in ("guided", "r_adapt_plus")] == [30, 40]
    path = tmp_path / "frame.csv"
    path.write_text(to_csv(frame))
    lines = coefficients.table(read_frame(path), options).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "r_adapt", "guided", "r_adapt_plus"]
    assert cells[2:] == [["alpha", "1.2", "1.2", "0.8"], ["beta", "-0.8", "0", "0.2"], ["D0", "none", "30", "40"]]


def test_the_papers_suite_is_set_as_its_table_9_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path = Path("leaderboards/r_adapt/benchmark.yaml")
    suite = load_suite(path)
    options = coefficients.Options.model_validate(suite.analyses["table_9"].options)
    frame = coefficients.measure(Source(suite, paths_for(path), "table_9"), options)
    values = frame.pivot(index=["setting", "model"], columns="view", values="value")
    assert len(values) == 15
    assert values["here"].tolist() == values["published"].tolist()
    assert "beta, published" in coefficients.table(frame, options)


def test_what_cannot_be_shown_is_told(source: Source) -> None:
    small = suite_of(MINI, source)
    with pytest.raises(UserError, match=r"options\.settings: unknown option of model 'none' 'alpha'"):
        coefficients.measure(small, given("none"))
    with pytest.raises(
        UserError, match=r"published: model 'r_adapt' is a mini model, whose numbers are never set beside"
    ):
        coefficients.measure(small, given("r_adapt", published="r_adapt/table_9"))
    large = suite_of({"architecture": "ViT-B-32", "weights": "random"}, source)
    with pytest.raises(UserError, match="r_adapt/published"):
        coefficients.measure(large, given("r_adapt", published="r_adapt/table_99"))


def test_a_model_that_the_paper_lacks_has_a_dash() -> None:
    lines = [("alpha", "ours", "here", 0.5), ("alpha", "theirs", "here", 1.2), ("alpha", "theirs", "published", 1.2)]
    frame = pd.DataFrame(lines, columns=["setting", "model", "view", "value"])
    options = given("ours", "theirs", settings={"alpha": "alpha"}, published="r_adapt/table_9")
    assert coefficients.table(frame, options).splitlines()[-1].replace(" ", "") == "|alpha,published|-|1.2|"
