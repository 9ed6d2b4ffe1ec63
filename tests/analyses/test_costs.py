import pytest

from bench.analyses import costs
from bench.analyses.contract import Source
from bench.analyses.run import read_frame, to_csv
from tests.analyses.conftest import models

OPTIONS = costs.Options.model_validate({"models": models("none", "rvpt", "cleanclip")})


@pytest.fixture
def frame(source: Source, tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text(to_csv(costs.measure(source, OPTIONS)))
    return read_frame(path).set_index("model", drop=False)


def test_samples_are_those_that_the_defense_was_tuned_on(frame) -> None:
    # One image for each of twelve classes; CleanCLIP takes 20 of the 32 pairs.
    assert frame["training_samples"].to_dict() == {"none": 0, "rvpt": 12, "cleanclip": 20}


def test_parameters_time_and_memory_were_measured(frame) -> None:
    assert frame.loc["none", "tuned_parameters"] == 0
    assert frame.loc["rvpt", "tuned_parameters"] == 2 * 3 * 128
    assert frame.loc["cleanclip", "wall_s"] > 0
    assert (frame["peak_memory_mb"] > 50).all()


def test_the_table_is_in_the_papers_layout(frame) -> None:
    frame.loc["cleanclip", "wall_s"] = 17201.4
    frame.loc["rvpt", "state"] = "diverged"
    lines = costs.table(frame, OPTIONS).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:5]]
    assert cells[0] == ["model", "training time", "memory (MB)", "tuned parameters", "training samples"]
    assert cells[3][:2] == ["rvpt", "diverged"]
    assert cells[4][1] == "4:46:41"
    assert cells[4][4] == "20"
