"""Running an analysis: its files, and that pictures are made from the CSV and nothing else."""

import io
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
import yaml
from PIL import Image

from bench import cli
from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.run import analyse, read_frame, to_csv
from bench.config import Suite
from bench.errors import UserError
from bench.items import item_ids
from tests.analyses.conftest import CLEAN, CONTENT, TUNED, models, paths_below

IMAGES = {"dataset": "shapes", "images": 12}
CELLS = {"track": "backdoor", "dataset": "shapes"}
PERTURBATION = {"flip": {}}
ANALYSES: dict[str, dict[str, Any]] = {
    "attention": {"dataset": "shapes", "models": models("none", "rvpt"), "trigger": {"checkpoint": "badnet"}},
    "attribution": IMAGES | {"models": models("none"), "attack": "pgd"},
    "bars": {"scenarios": {"inside": CELLS | {"defenses": {"CLIP": "none", "RVPT": "rvpt"}}}},
    "cka": IMAGES | {"standard": CLEAN, "models": {"tuned": TUNED}},
    "coefficients": {"models": models("rvpt"), "settings": {"depth": "depth", "length": "length"}},
    "costs": {"models": models("none", "rvpt")},
    "curves": {"panels": {"epochs": CELLS | {"defenses": ["rvpt", "cleanclip"], "option": "epochs"}}},
    "datasets": {},
    "distributions": IMAGES | {"models": models("none", "rvpt"), "perturbation": PERTURBATION},
    "embeddings": IMAGES | {"models": models("none", "rvpt"), "perplexity": 5},
    "heads": IMAGES | {"standard": CLEAN, "robust": TUNED, "attack": {"attack": "pgd"}},
    "images": {},
    "insensitivity": IMAGES | {"models": {"clean": CLEAN, "tuned": TUNED}},
    "replacement": {
        "panels": {"shapes": IMAGES},
        "standard": CLEAN,
        "models": {"tuned": TUNED},
        "attacks": {"clean": {"attack": "clean"}, "PGD": {"attack": "pgd"}},
        "modules": ["Emb."],
    },
    "resistivity": IMAGES | {"models": models("none"), "perturbations": {"mirrored": PERTURBATION}, "resamples": 5},
    "resistivity_asr": CELLS
    | {"defenses": ["none", "rvpt"], "panels": {"mirrored": {"perturbation": PERTURBATION}}, "resamples": 5},
    "retrieval": {
        "dataset": "scenes",
        "models": {"clean": CLEAN, "tuned": TUNED},
        "conditions": {
            "Clean": [{"attack": "clean"}],
            "eps=8/255": [{"attack": "captions"}, {"attack": "captions_grey"}],
        },
    },
    "spectrum": IMAGES | {"standard": CLEAN, "models": {"tuned": TUNED}, "attacks": {"PGD": {"attack": "pgd"}}},
    "triggers": {"dataset": "shapes", "perturbations": {"mirrored": PERTURBATION}},
}


def with_analyses(source: Source, **analyses: dict[str, Any]) -> Suite:
    return Suite.model_validate(source.suite.model_dump() | {"analyses": analyses})


def entry(method: str, **changes: Any) -> dict[str, Any]:
    return {"method": method, "title": f"The {method}", "options": ANALYSES[method] | changes}


def test_every_analysis_is_run_below() -> None:
    # What large models see with is in test_image_towers.py, what else is about them in the folder lvlm.
    large = ["ablation", "attention_maps", "detection", "even_attention", "guard", "seen_examples"]
    assert sorted([*ANALYSES, "image_towers", *large]) == item_ids("analyses")


@pytest.mark.parametrize("method", ANALYSES)
def test_the_csv_alone_gives_the_same_picture_and_table_again(source: Source, method: str, tmp_path: Path) -> None:
    suite = with_analyses(source, figure=entry(method))
    paths = source.paths._replace(boards=tmp_path / "boards")
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "cells.csv").write_text((source.paths.boards / "cells.csv").read_text())
    first = {path.name: path.read_bytes() for path in analyse(suite, "figure", paths)}
    assert "figure.csv" in first
    assert len(first) > 1
    # Somewhere else: no models, no images, no cells.
    elsewhere = paths_below(tmp_path / "elsewhere")
    elsewhere.boards.mkdir(parents=True)
    (elsewhere.boards / "figure.csv").write_bytes(first.pop("figure.csv"))
    again = {path.name: path.read_bytes() for path in analyse(suite, "figure", elsewhere, redraw=True)}
    assert again == first
    if "figure.md" in first:
        assert first["figure.md"].decode().startswith(f"# The {method}\n\n|")
    if "figure.png" in first:
        image = Image.open(io.BytesIO(first["figure.png"]))
        assert image.info.keys() <= {"dpi"}, "no date, no version of a program"
        assert len(first["figure.png"]) < 150_000


def test_pictures_do_not_depend_on_the_users_settings(source: Source, tmp_path: Path) -> None:
    suite, paths = with_analyses(source, figure=entry("bars")), source.paths._replace(boards=tmp_path)
    (tmp_path / "cells.csv").write_text((source.paths.boards / "cells.csv").read_text())
    *_, picture = analyse(suite, "figure", paths)
    before = picture.read_bytes()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "savefig.dpi": 30}):
        analyse(suite, "figure", paths)
    assert picture.read_bytes() == before


def test_an_unknown_model_is_told_before_anything_is_opened(source: Source, tmp_path: Path) -> None:
    wrong = {"A": models("rvpt")["rvpt"] | {"defense": "rvtp"}, "B": models("rvpt")["rvpt"] | {"checkpoint": "badnt"}}
    suite = with_analyses(source, figure=entry("embeddings", models=wrong))
    with pytest.raises(UserError) as error:
        analyse(suite, "figure", paths_below(tmp_path))
    where = f"{tmp_path}/benchmark.yaml: analyses.figure.options.models"
    assert str(error.value).splitlines() == [
        f"{where}.A.defense: unknown defense of track 'backdoor' 'rvtp'; did you mean 'rvpt'?",
        f"{where}.B.checkpoint: unknown checkpoint of track 'backdoor' 'badnt'; did you mean 'badnet'?",
    ]


def test_an_unknown_method_and_a_wrong_option_are_told(source: Source) -> None:
    suite = with_analyses(source, figure=entry("bars") | {"method": "bar"})
    with pytest.raises(UserError, match=r"analyses\.figure\.method: unknown analysis 'bar'; did you mean 'bars'"):
        analyse(suite, "figure", source.paths)
    suite = with_analyses(source, figure=entry("bars", metrik="CA"))
    with pytest.raises(
        UserError, match=r"analyses\.figure\.options: metrik: unknown key 'metrik'; did you mean 'metric'"
    ):
        analyse(suite, "figure", source.paths)


@pytest.mark.parametrize("name", ["cells", "rvpt_1"])
def test_an_analysis_must_not_overwrite_another_file(source: Source, name: str) -> None:
    suite = with_analyses(source, **{name: entry("bars")})
    table = {"title": "T", "tracks": ["backdoor"], "rows": ["defense"], "columns": ["metric"]}
    suite = Suite.model_validate(suite.model_dump() | {"tables": {"rvpt_1": table}})
    with pytest.raises(UserError, match=f"this name would overwrite {name}.csv; rename the analysis"):
        analyse(suite, name, source.paths)


def test_there_must_be_numbers_to_redraw(source: Source, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make it with: bench analyse figure"):
        analyse(with_analyses(source, figure=entry("bars")), "figure", paths_below(tmp_path), redraw=True)


def test_names_that_look_like_numbers_or_like_nothing_stay_names(tmp_path: Path) -> None:
    path = tmp_path / "frame.csv"
    frame = pd.DataFrame({"model": ["01", "NA", "none"], "value": [1.5, None, 0.1 + 0.2]})
    path.write_text(to_csv(frame))
    assert path.read_text() == "model,value\n01,1.5\nNA,\nnone,0.3\n"
    assert read_frame(path)["model"].tolist() == ["01", "NA", "none"]
    assert read_frame(path)["value"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(("count", "grid"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (6, (2, 3)), (7, (3, 3))])
def test_panels_are_spread_evenly(count: int, grid: tuple[int, int]) -> None:
    assert style.grid_of(count, 3) == grid


def test_the_command_knows_its_analyses(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    content = CONTENT | {"analyses": {"figure_6": entry("embeddings")}}
    Path("benchmark.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(sys, "argv", ["bench", "analyse", "figure_5"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "unknown analysis 'figure_5'; did you mean 'figure_6'?" in " ".join(capsys.readouterr().err.split())
