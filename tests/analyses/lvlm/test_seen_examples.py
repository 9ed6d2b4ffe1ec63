import pandas as pd
import pytest

from bench.analyses import seen_examples
from bench.analyses.contract import Source
from bench.analyses.drawing.pixels import from_pixel_lines
from tests.analyses.lvlm.conftest import model, record

pytestmark = pytest.mark.xdist_group("large")
OBJECTS = {"track": "objects", "checkpoint": "clean"}
OPTIONS = seen_examples.Options.model_validate(
    {
        "attack": "v_attack",
        "examples": [
            {"dataset": "world_objects", "split": "caption", "row": 1},
            {"dataset": "world_objects", "split": "questions", "row": 7},
        ],
        "models": {"LLaVA": OBJECTS | {"defense": "none"}, "filter": OBJECTS | {"defense": "filter_only"}},
    }
)


def picture(frame: pd.DataFrame, **chosen: object):
    for column, value in chosen.items():
        frame = frame[frame[column] == value]
    return from_pixel_lines(frame.loc[frame["part"] == "image", "pixels"]).astype(int)


def test_each_model_has_an_image_of_its_own_within_the_ball(source: Source) -> None:
    frame = seen_examples.measure(source, OPTIONS)
    assert len(frame) == 2 * 2 * 2 * (32 + 1)
    clean = picture(frame, row=0, model="LLaVA", condition="clean")
    attacked = {name: picture(frame, row=0, model=name, condition="attacked") for name in OPTIONS.models}
    for image in attacked.values():
        assert 0 < abs(image - clean).max() <= 16
    assert (attacked["LLaVA"] != attacked["filter"]).any()


def test_verdicts_are_those_of_the_cells(source: Source) -> None:
    frame = seen_examples.measure(source, OPTIONS)
    for name, defense in (("LLaVA", "none"), ("filter", "filter_only")):
        for condition, attack in (("clean", "clean"), ("attacked", "v_attack")):
            outcome = record(source, defense, attack, "objects").outcome
            assert outcome is not None
            told = frame[(frame["part"] == "told") & (frame["model"] == name) & (frame["condition"] == condition)]
            assert told["verdict"].iloc[0] == outcome.predictions[1]


def test_a_trigger_may_stand_in_the_attacks_place(source: Source) -> None:
    content = {
        "attack": "trigger",
        "examples": [{"dataset": "world_questions", "row": place} for place in range(4)],
        "models": {"none": model("none"), "CleanSight": model("cleansight")},
    }
    options = seen_examples.Options.model_validate(content)
    frame = seen_examples.measure(source, options)
    outcome = record(source, "none", "trigger").outcome
    assert outcome is not None
    told = frame[(frame["part"] == "told") & (frame["model"] == "none") & (frame["condition"] == "attacked")]
    assert told["verdict"].tolist() == list(outcome.predictions[:4])
    axes = seen_examples.draw(frame, options).axes
    assert len(axes) == 4 * 3
    assert [text.get_text().split(":")[0] for text in axes[1].texts] == ["clean", "attacked"]
