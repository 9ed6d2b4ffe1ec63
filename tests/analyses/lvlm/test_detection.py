import numpy as np
import pytest

from bench.analyses import detection
from bench.analyses.contract import Source
from bench.analyses.subjects.cleansight import auroc
from bench.analyses.subjects.references import faults_of
from tests.analyses.lvlm.conftest import QUESTIONS, model, record

pytestmark = pytest.mark.xdist_group("large")
PANEL = QUESTIONS | {"models": {"BadNet": model("cleansight")}}
OPTIONS = detection.Options.model_validate({"panels": {"questions": PANEL}, "resamples": 20})


def test_the_range_has_the_distances_of_the_defenses_own_records(source: Source) -> None:
    from sklearn.metrics import roc_auc_score

    frame = detection.measure(source, OPTIONS)
    assert frame["kind"].tolist() == ["layer"] * 6 + ["range"]
    assert frame["x"].tolist() == [0, 1, 2, 3, 4, 5, 2]
    together = frame.iloc[-1]
    assert (together["first"], together["last"]) == (2, 4)
    clean, triggered = (record(source, "cleansight", attack).outcome for attack in ("clean", "trigger"))
    assert clean is not None
    assert triggered is not None
    labels = [0] * len(clean.distances) + [1] * len(triggered.distances)
    expected = 100 * roc_auc_score(labels, [*clean.distances, *triggered.distances])
    assert together["value"] == pytest.approx(expected, abs=0.2)
    assert (frame["low"] <= frame["value"]).all()
    assert (frame["value"] <= frame["high"]).all()


def test_areas_of_known_distances() -> None:
    near, far = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0])
    assert auroc(near, far, 10) == (100, 100, 100)
    assert auroc(far, near).value == 0
    assert auroc(near, near).value == 50
    assert np.isnan(auroc(near, far).low)


def test_another_defense_and_a_clean_model_are_told(source: Source) -> None:
    def faults(**changes: str) -> list[str]:
        panel = PANEL | {"models": {"A": model("cleansight") | changes}}
        return list(faults_of(detection.Options.model_validate({"panels": {"p": panel}}), source.suite, "here"))

    assert faults() == []
    (fault,) = faults(defense="blur")
    assert "here.panels.p.models.A.defense: 'blur' is not CleanSight alone" in fault
    clean = faults(track="objects", defense="none", checkpoint="clean")
    assert any("'clean' is a clean model without a trigger" in fault for fault in clean)


def test_each_model_is_a_line_over_the_layers(source: Source) -> None:
    (axes,) = detection.draw(detection.measure(source, OPTIONS), OPTIONS).axes
    assert [0, 1, 2, 3, 4, 5] in [list(line.get_xdata()) for line in axes.lines]
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "range"
