from typing import Any

import pandas as pd
import pytest

from bench.analyses import distributions, resistivity, resistivity_asr
from bench.analyses.contract import Source
from bench.analyses.run import read_frame, to_csv
from bench.analyses.subjects.models import Opened, Sample
from bench.leaderboard.verify import read_cells
from tests.analyses.conftest import models

PERTURBATIONS = {"nothing": {"identity": {}}, "mirrored": {"flip": {}}}


def read_back(frame: pd.DataFrame, tmp_path) -> pd.DataFrame:
    path = tmp_path / "figure.csv"
    path.write_text(to_csv(frame))
    return read_frame(path)


def test_the_table_has_a_column_for_each_model_and_tells_both_parts_of_the_ratio(source: Source, tmp_path) -> None:
    options = resistivity.Options.model_validate(
        {"dataset": "shapes", "models": models("none", "rvpt"), "perturbations": PERTURBATIONS, "resamples": 20}
    )
    frame = read_back(resistivity.measure(source, options), tmp_path)
    found = frame.set_index(["perturbation", "model", "quantity"])["value"]
    for model in ("none", "rvpt"):
        assert found["nothing", model, "pr"] == found["nothing", model, "features"] == 1
        ratio = found["mirrored", model, "features"] / found["mirrored", model, "logits"]
        assert found["mirrored", model, "pr"] == pytest.approx(ratio, rel=1e-4)
    lines = resistivity.table(frame, options).splitlines()
    assert lines[0].split() == ["|", "perturbation", "|", "none", "|", "rvpt", "|"]
    assert "1.000 [1.000, 1.000]" in lines[2]
    assert f"{found['mirrored', 'rvpt', 'pr']:.3f} [" in lines[3]
    assert any("1.000 / 1.000" in line for line in lines)
    assert "over 24 images of shapes (test)" in resistivity.table(frame, options)


def titles(options: distributions.Options, frame: pd.DataFrame) -> list[str]:
    return [axes.get_title(loc="left") or axes.get_title() for axes in distributions.draw(frame, options).axes]


def test_the_panels_tell_pr_and_the_success_rate_that_the_cells_have(source: Source, tmp_path) -> None:
    options = distributions.Options.model_validate(
        {"dataset": "shapes", "models": models("none", "rvpt"), "perturbation": {"flip": {}}}
    )
    frame = read_back(distributions.measure(source, options), tmp_path)
    assert len(frame) == 2 * 24
    cells = read_cells(source.paths.boards / "cells.csv")
    told = titles(options, frame)
    for defense, title in zip(("none", "rvpt"), told, strict=True):
        asr = cells[(cells["defense"] == defense) & (cells["metric"] == "ASR")].iloc[0]
        images = frame[frame["model"] == defense]
        assert images["hit"].notna().sum() == asr["n"] == 22
        ratio = images["features"].mean() / images["logits"].mean()
        assert title.splitlines() == [defense, f"PR {ratio:.3f}, ASR {asr['value']:.1f} %"]


def test_a_clean_model_has_no_success_rate(source: Source, tmp_path) -> None:
    content: Any = source.suite.model_dump()
    content["tracks"]["backdoor"] |= {"checkpoints": ["clean"]}
    clean = source._replace(suite=type(source.suite).model_validate(content))
    from bench.backdoors.checkpoint import load_checkpoint
    from bench.defenses.fitting import fit_all

    clean = clean._replace(paths=clean.paths._replace(models=tmp_path / "models"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base").symlink_to(source.paths.models / "base")
    fit_all(clean.suite, "backdoor", "none", "clean", load_checkpoint(clean.paths.checkpoint("clean")), clean.paths)
    model = {"CLIP": {"track": "backdoor", "defense": "none", "checkpoint": "clean"}}
    options = distributions.Options.model_validate(
        {"dataset": "shapes", "models": model, "perturbation": {"identity": {}}}
    )
    frame = read_back(distributions.measure(clean, options), tmp_path)
    assert titles(options, frame) == ["CLIP\nPR 1.000"]


def test_resistivity_stands_beside_the_success_rate_of_the_same_model(source: Source, tmp_path) -> None:
    options = resistivity_asr.Options.model_validate(
        {
            "track": "backdoor",
            "dataset": "shapes",
            "defenses": ["none", "rvpt", "cleanclip"],
            "panels": {
                "nothing": {"perturbation": {"identity": {}}},
                "mixed": {"perturbation": {"identity": {}}, "instead": {"badnet": {"flip": {}}}},
            },
            "resamples": 20,
        }
    )
    frame = read_back(resistivity_asr.measure(source, options), tmp_path)
    cells = read_cells(source.paths.boards / "cells.csv")
    rates = cells[cells["metric"] == "ASR"].set_index("defense")["value"]
    assert len(frame) == 2 * 3
    for line in frame.itertuples():
        assert line.asr == pytest.approx(rates[line.defense])
        assert (line.pr == 1) == (line.panel == "nothing"), "'instead' takes the place of the panel's own"
    assert len(resistivity_asr.draw(frame, options).axes) == 2
    assert "| mixed" in resistivity_asr.table(frame, options)


def points(pr: list[float], asr: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"pr": pr, "asr": asr})


def test_correlations_of_known_points() -> None:
    assert resistivity_asr.correlations(points([0.1, 0.2, 0.3], [30, 20, 10])) == pytest.approx((-1, -1))
    rank, linear = resistivity_asr.correlations(points([1, 2, 3, 4], [1, 8, 27, 1000]))
    assert rank == pytest.approx(1)
    assert linear < 0.9


@pytest.mark.parametrize("few", [points([0.1, 0.2], [1, 2]), points([0.1, 0.2, 0.3], [5, 5, 5])])
def test_without_variation_there_is_no_correlation(few: pd.DataFrame) -> None:
    assert all(value != value for value in resistivity_asr.correlations(few))


def test_the_opened_models_share_no_state(source: Source, opened, sample: Sample) -> None:
    """Opening a defended model leaves the undefended one as it was."""
    plain: Opened = opened("none")
    before = plain.features(sample)
    opened("rvpt")
    assert plain.features(sample).equal(before)
