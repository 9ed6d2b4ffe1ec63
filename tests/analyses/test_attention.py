from collections.abc import Callable

import pytest
import torch
from matplotlib.figure import Figure

from bench.analyses import attention
from bench.analyses.contract import Source
from bench.analyses.models import Opened, Sample
from bench.analyses.pixels import from_pixel_lines
from bench.analyses.run import read_frame, to_csv
from bench.clip.staged import Trace
from tests.analyses.conftest import models

pytestmark = pytest.mark.usefixtures("exact")
PATCHES, PROMPTS = 16, 3
OPTIONS = attention.Options.model_validate(
    {"dataset": "shapes", "row": 2, "models": models("none", "rvpt"), "trigger": {"checkpoint": "badnet"}}
)


@pytest.mark.parametrize(("defense", "prompts"), [("none", 0), ("rvpt", PROMPTS)])
def test_the_weights_are_those_of_torchs_own_attention(
    opened: Callable[[str], Opened], sample: Sample, defense: str, prompts: int
) -> None:
    model, images = opened(defense).defended, sample.split.batch(sample.rows[:3])
    weights = attention.class_attention(model, images)
    assert weights.shape == (3, 1 + PATCHES + prompts)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3))
    trace, block = Trace(), model.staged.image_blocks[-1]
    with torch.no_grad():
        model.image(images, trace)
        entering = block.ln_1(trace.last_input)
        _, expected = block.attn(entering, entering, entering, need_weights=True)
    torch.testing.assert_close(weights, expected[:, 0])


def test_every_weight_and_both_images_are_in_the_frame(
    source: Source, opened: Callable[[str], Opened], sample: Sample, tmp_path
) -> None:
    path = tmp_path / "figure.csv"
    path.write_text(to_csv(attention.measure(source, OPTIONS)))
    frame = read_frame(path)
    weights = frame[frame["part"] != "image"]
    sums = weights.groupby(["model", "version"])["weight"].sum()
    assert sums.to_numpy() == pytest.approx(1, abs=1e-4)
    counts = weights[weights["version"] == "clean"].groupby(["model", "part"]).size()
    assert counts.to_dict() == {
        ("none", "class token"): 1,
        ("none", "patches"): PATCHES,
        ("rvpt", "class token"): 1,
        ("rvpt", "patches"): PATCHES,
        ("rvpt", "prompts"): PROMPTS,
    }
    chosen = sample.split.batch([2])
    patches = weights[(weights["model"] == "rvpt") & (weights["version"] == "clean") & (weights["part"] == "patches")]
    expected = attention.class_attention(opened("rvpt").defended, chosen)[0, 1 : 1 + PATCHES]
    assert patches["weight"].to_numpy() == pytest.approx(expected.numpy(), rel=1e-5)
    drawn = frame[(frame["part"] == "image") & (frame["version"] == "clean")]["pixels"]
    assert (from_pixel_lines(drawn) == sample.split.images[2].transpose(1, 2, 0)).all()
    triggered = frame[(frame["part"] == "image") & (frame["version"] == "triggered")]["pixels"]
    assert (from_pixel_lines(triggered) != from_pixel_lines(drawn)).any(axis=2).sum() <= 16
    assert isinstance(attention.draw(frame, OPTIONS), Figure)
