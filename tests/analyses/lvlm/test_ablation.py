import pytest

from bench.analyses import ablation
from bench.analyses.contract import Source
from bench.errors import UserError
from bench.items import item_options
from tests.analyses.lvlm.conftest import QUESTIONS, model, record

pytestmark = pytest.mark.xdist_group("large")
CONTENT = QUESTIONS | {
    "models": {"BadNet": model("cleansight")},
    "settings": {
        "tau": {"0.1": {"tau": 0.1}, "1": {"tau": 1.0}},
        "percentile": {"50": {"percentile": 50}, "99": {"percentile": 99}},
        "layers": {"2-4": {}, "0-1": {"first": 0, "last": 0.2}},
    },
    "resamples": 10,
}


def test_the_suites_own_settings_have_the_numbers_of_the_cells(source: Source) -> None:
    options = ablation.Options.model_validate(CONTENT)
    frame = ablation.measure(source, options)
    assert len(frame) == 6 * 4
    own = frame[frame["own"]]
    assert own.drop_duplicates(["panel", "condition"])[["panel", "condition"]].to_numpy().tolist() == [
        ["tau", "0.1"],
        ["percentile", "99"],
        ["layers", "2-4"],
    ]
    clean, triggered = (record(source, "cleansight", attack) for attack in ("clean", "trigger"))
    expected = {"ASR": triggered.value, "CU": clean.value, "false alarms": clean.variants["alarms"]}
    for kind, value in expected.items():
        assert own.loc[own["kind"] == kind, "value"].tolist() == pytest.approx([value] * 3)
    many = frame[(frame["condition"] == "50") & (frame["kind"] == "false alarms")]["value"].item()
    assert many > clean.variants["alarms"], "half of the calibration questions are flagged"
    # No attention is above 1, so that nothing is hidden.
    attack = frame[(frame["condition"] == "1") & (frame["kind"] == "ASR")]["value"].item()
    assert attack == pytest.approx(record(source, "none", "trigger").value)
    axes = ablation.draw(frame, options).axes
    assert [axis.get_xlabel() for axis in axes if axis.get_xlabel()] == ["tau", "percentile", "layers"]
    assert [label.get_text() for label in axes[2].get_xticklabels()] == ["2-4", "0-1"]


def test_a_wrong_setting_is_told_before_anything_is_opened() -> None:
    with pytest.raises(UserError, match="unknown key 'taw'; did you mean 'tau'"):
        item_options(ablation, CONTENT | {"settings": {"tau": {"0.1": {"taw": 0.1}}}}, "here")
