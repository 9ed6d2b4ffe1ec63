import math

import pytest
import torch

from bench.analyses import triggers
from bench.analyses.contract import Source
from bench.analyses.drawing.pixels import from_pixel_lines, pixel_lines
from bench.analyses.run import read_frame, to_csv
from bench.analyses.subjects.models import Sample
from tests.analyses.conftest import images

OPTIONS = triggers.Options.model_validate(
    {
        "dataset": "shapes",
        "row": 3,
        "perturbations": {
            "nothing": {"identity": {}},
            "mirrored": {"flip": {}},
            "BadNet": {"trigger": {"checkpoint": "badnet"}},
        },
    }
)


def test_psnr_of_a_constant_change_is_known() -> None:
    grey = torch.full((1, 3, 4, 4), 0.5)
    assert triggers.psnr(grey, grey + 0.1) == pytest.approx(20, abs=1e-4)
    assert triggers.psnr(grey, grey + 0.01) == pytest.approx(40, abs=1e-3)
    assert triggers.psnr(grey, grey) == math.inf


def test_pixels_survive_a_csv_even_where_they_look_like_numbers(tmp_path) -> None:
    import pandas as pd

    black = torch.zeros(3, 5, 7)
    stored = images(1)[0].mul(255).round().div(255)
    for image in (black, stored):
        path = tmp_path / "pixels.csv"
        path.write_text(to_csv(pd.DataFrame({"pixels": pixel_lines(image)})))
        found = torch.from_numpy(from_pixel_lines(read_frame(path)["pixels"])).permute(2, 0, 1)
        assert torch.equal(found, image.mul(255).round().byte())


def test_every_version_of_the_image_is_in_the_frame(source: Source, sample: Sample, tmp_path) -> None:
    path = tmp_path / "figure.csv"
    path.write_text(to_csv(triggers.measure(source, OPTIONS)))
    frame = read_frame(path)
    versions = {name: from_pixel_lines(lines["pixels"]) for name, lines in frame.groupby("version", sort=False)}
    original = sample.split.images[3].transpose(1, 2, 0)
    assert list(versions) == ["original", "nothing", "mirrored", "BadNet"]
    assert (versions["original"] == original).all()
    assert (versions["mirrored"] == original[:, ::-1]).all()
    assert 0 < (versions["BadNet"] != original).any(axis=2).sum() <= 16
    ratios = frame.groupby("version", sort=False)["psnr_db"].first()
    assert math.isinf(ratios["original"])
    assert math.isinf(ratios["nothing"])
    assert math.isfinite(ratios["BadNet"])
    titles = [axes.get_title() for axes in triggers.draw(frame, OPTIONS).axes]
    assert titles == list(versions)
