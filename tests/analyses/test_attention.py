from collections.abc import Callable

import pytest
import torch
from matplotlib.figure import Figure

from bench.analyses import attention
from bench.analyses.contract import Source
from bench.analyses.drawing.pixels import from_pixel_lines
from bench.analyses.run import read_frame, to_csv
from bench.analyses.subjects.models import Opened, Sample
from bench.clip.staged import Trace
from bench.errors import UserError
from tests.analyses.conftest import models

pytestmark = pytest.mark.usefixtures("exact")
PATCHES, PROMPTS = 16, 3
OPTIONS = attention.Options.model_validate(
    {"dataset": "shapes", "rows": [2], "models": models("none", "rvpt"), "trigger": {"checkpoint": "badnet"}}
)


@pytest.mark.parametrize(("defense", "prompts"), [("none", 0), ("rvpt", PROMPTS)])
def test_the_weights_are_those_of_torchs_own_attention(
    opened: Callable[[str], Opened], sample: Sample, defense: str, prompts: int
) -> None:
    model, images = opened(defense).defended, sample.split.batch(sample.rows[:3])
    trace, blocks = Trace(), model.staged.image_blocks
    with torch.no_grad():
        model.image(images, trace)
    for end, block, entered, tokens in (
        ("first", blocks[0], trace.first_input, 1 + PATCHES),
        ("last", blocks[-1], trace.last_input, 1 + PATCHES + prompts),
    ):
        weights = attention.class_attention(model, images, end)
        assert weights.shape == (3, tokens)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3))
        with torch.no_grad():
            entering = block.ln_1(entered)
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
    counts = weights[weights["version"] == "image 2"].groupby(["model", "part"]).size()
    assert counts.to_dict() == {
        ("none", "class token"): 1,
        ("none", "patches"): PATCHES,
        ("rvpt", "class token"): 1,
        ("rvpt", "patches"): PATCHES,
        ("rvpt", "prompts"): PROMPTS,
    }
    chosen = sample.split.batch([2])
    patches = weights[(weights["model"] == "rvpt") & (weights["version"] == "image 2") & (weights["part"] == "patches")]
    expected = attention.class_attention(opened("rvpt").defended, chosen)[0, 1 : 1 + PATCHES]
    assert patches["weight"].to_numpy() == pytest.approx(expected.numpy(), rel=1e-5)
    drawn = frame[(frame["part"] == "image") & (frame["version"] == "image 2")]["pixels"]
    assert (from_pixel_lines(drawn) == sample.split.images[2].transpose(1, 2, 0)).all()
    triggered = frame[(frame["part"] == "image") & (frame["version"] == "image 2, triggered")]["pixels"]
    assert (from_pixel_lines(triggered) != from_pixel_lines(drawn)).any(axis=2).sum() <= 16
    assert isinstance(attention.draw(frame, OPTIONS), Figure)


def test_several_images_of_the_first_block_without_a_trigger(source: Source) -> None:
    options = attention.Options.model_validate(
        {"dataset": "shapes", "rows": [0, 5], "models": models("none", "cleanclip"), "block": "first"}
    )
    frame = attention.measure(source, options)
    assert list(frame["version"].unique()) == ["image 0", "image 5"]
    titles = [axis.get_title() for axis in attention.draw(frame, options).axes]
    assert titles[:6] == ["image 0", "none", "cleanclip", "image 5", "none", "cleanclip"]
    wrong = options.model_copy(update={"rows": (0, 99)})
    with pytest.raises(UserError, match=r"figure\.options\.rows\.1: 99 is beyond the 24 images of 'shapes'"):
        attention.measure(source, wrong)
