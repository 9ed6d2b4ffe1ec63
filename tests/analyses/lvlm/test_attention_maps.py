import numpy as np
import pytest

from bench.analyses import attention_maps
from bench.analyses.contract import Source
from bench.analyses.drawing.pixels import from_pixel_lines
from bench.analyses.subjects.cleansight import GuardedReference
from bench.analyses.subjects.lvlms import Large, open_larges, open_questions
from bench.analyses.subjects.references import ImageReference
from bench.errors import UserError
from bench.lvlm.answering import encode, inputs_of
from tests.analyses.lvlm.conftest import QUESTIONS, model, record

pytestmark = pytest.mark.xdist_group("large")
CONTENT = QUESTIONS | {"rows": [3, 5], "models": {"BadNet": model("cleansight")}}
OPTIONS = attention_maps.Options.model_validate(CONTENT)


@pytest.fixture(scope="module")
def large(source: Source) -> Large:
    (opened,) = open_larges(source, {"BadNet": GuardedReference.model_validate(model("cleansight"))})
    return opened


@pytest.mark.parametrize("layer", [0, 2])
def test_the_weights_are_those_that_transformers_tells(source: Source, large: Large, layer: int) -> None:
    one, lvlm = open_questions(source, ImageReference.model_validate(QUESTIONS)).only(3, "here"), large.victim.lvlm
    found, _ = attention_maps.attention(large, one, layer, planted=False)
    (batch,) = one.batches()
    encoded = encode(lvlm, batch.texts)
    lvlm.model.set_attn_implementation("eager")
    output = lvlm.model(**inputs_of(lvlm, batch.images, encoded), output_attentions=True)
    lvlm.model.set_attn_implementation("sdpa")
    expected = output.attentions[layer][0, :, -1].amax(dim=0)[encoded.ids[0] == lvlm.image_token_id]
    assert len(found) == 16
    assert [weight for weight, _ in found] == pytest.approx(expected.tolist(), abs=1e-6)


def test_hidden_are_the_tokens_of_flagged_questions_above_tau(source: Source) -> None:
    frame = attention_maps.measure(source, OPTIONS)
    assert len(frame) == 2 * 2 * (32 + 16 + 1)
    outcomes = {
        version: record(source, "cleansight", attack).outcome
        for version, attack in (("clean", "clean"), ("triggered", "trigger"))
    }
    for (row, version), found in frame.groupby(["row", "version"]):
        told, tokens = found[found["part"] == "told"].iloc[0], found[found["part"] == "attention"]
        outcome = outcomes[str(version)]
        assert outcome is not None
        assert told["distance"] == pytest.approx(outcome.distances[int(str(row))], abs=1e-3)
        expected = (tokens["weight"] > 0.1) & told["flagged"]
        assert tokens["hidden"].tolist() == expected.tolist()


def test_the_trigger_is_on_the_triggered_images_only(source: Source) -> None:
    frame = attention_maps.measure(source, OPTIONS)
    clean, triggered = (
        from_pixel_lines(
            frame.loc[(frame["row"] == 3) & (frame["version"] == one) & (frame["part"] == "image"), "pixels"]
        )
        for one in ("clean", "triggered")
    )
    changed = np.argwhere((clean != triggered).any(axis=2))
    assert len(changed)
    assert np.ptp(changed, axis=0).max() < 8


def test_a_layer_that_is_not_there_is_told(source: Source) -> None:
    with pytest.raises(UserError, match=r"options\.layer: 6 is beyond the 6 layers of the decoder"):
        attention_maps.measure(source, attention_maps.Options.model_validate(CONTENT | {"layer": 6}))


def test_the_picture_has_six_panels_for_each_question(source: Source) -> None:
    axes = attention_maps.draw(attention_maps.measure(source, OPTIONS), OPTIONS).axes
    assert len(axes) == 2 * 6 + 1
