"""Figures over cells: what they read, and that nothing but cells.csv and the suite is needed for them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.analyses import bars, curves
from bench.analyses.contract import Source
from bench.analyses.subjects.readings import over_seeds, setting
from bench.analyses.subjects.references import faults_of
from bench.errors import UserError
from bench.evaluation.metrics import Count, wilson
from tests.leaderboard.conftest import House

TRACK = {"track": "backdoor", "dataset": "shapes"}
DEFENSES = {
    "none": {},
    "rvpt": {"options": {"epochs": 4}, "tuning": {"shots": 8}},
    "linear_probe": {"options": {"epochs": 1}},
    "advpt": {},
}


@pytest.fixture
def cells(tmp_path: Path) -> Source:
    """A ``cells.csv`` and a suite, without any model, image or record."""
    house = House(tmp_path)
    house.content["tracks"]["backdoor"]["defenses"] = DEFENSES
    house.content["protocol"]["seeds"] = [1, 2]
    hits = {"none": "1110", "rvpt": "1000", "linear_probe": "1100", "advpt": "0000"}
    for defense, outcome in hits.items():
        for checkpoint in ("badnet", "blended"):
            for attack in ("clean", "trigger"):
                for seed in (1, 2):
                    house.put("backdoor", defense, attack, outcome, checkpoint=checkpoint, seed=seed)
    house.put("backdoor", "rvpt", "trigger", "1111", checkpoint="badnet", seed=2)
    house.put("backdoor", "advpt", "trigger", state="diverged", checkpoint="blended", seed=2)
    house.collect()
    boards = house.paths.boards
    paths = house.paths._replace(data=Path("absent"), models=Path("absent"), results=Path("absent"), boards=boards)
    return Source(house.suite, paths, "fig3")


def panel(**changes: object) -> curves.Options:
    given = TRACK | {"defenses": ["rvpt", "linear_probe", "advpt"], "option": "epochs"} | changes
    return curves.Options.model_validate({"panels": {"epochs": given}})


def test_a_curve_has_each_cell_at_its_setting_with_the_cells_interval(cells: Source) -> None:
    frame = curves.measure(cells, panel())
    assert len(frame) == 3 * 2 * 2 * 2
    assert dict(zip(frame["defense"], frame["x"], strict=True)) == {"rvpt": 4, "linear_probe": 1, "advpt": 200}
    found = frame[(frame["defense"] == "linear_probe") & (frame["metric"] == "ASR")].iloc[0]
    low, high = wilson(Count(2, 4))
    assert (found["hits"], found["n"]) == (2, 4)
    assert [found["value"], found["low"], found["high"]] == pytest.approx([50, low, high], abs=1e-4)


def test_an_axis_may_count_from_the_other_end(cells: Source) -> None:
    frame = curves.measure(cells, panel(counted_from=6))
    assert dict(zip(frame["defense"], frame["x"], strict=True))["rvpt"] == 2


def test_a_curve_can_show_some_checkpoints_only(cells: Source) -> None:
    assert set(curves.measure(cells, panel(checkpoints=["blended"]))["checkpoint"]) == {"blended"}


def test_seeds_become_a_mean_and_a_band_over_all_their_intervals(cells: Source) -> None:
    frame = curves.measure(cells, panel())
    means = over_seeds(frame, ["checkpoint", "kind", "x"]).set_index(["checkpoint", "kind", "x"])
    point = means.loc[("badnet", "ASR", 4)]
    assert point["value"] == pytest.approx((25 + 100) / 2)
    assert point["low"] == pytest.approx(wilson(Count(1, 4)).low, abs=1e-4)
    assert point["high"] == pytest.approx(wilson(Count(4, 4)).high, abs=1e-4)


def test_a_point_with_a_failed_seed_has_no_value_and_is_marked(cells: Source) -> None:
    frame = curves.measure(cells, panel())
    means = over_seeds(frame, ["checkpoint", "kind", "x"]).set_index(["checkpoint", "kind", "x"])
    assert np.isnan(means.loc[("blended", "ASR", 200)].to_numpy(float)).all()
    (axes,) = curves.draw(frame, panel()).axes
    crosses = [line for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in crosses] == [[200]]


def test_lines_are_drawn_at_the_means_in_the_order_of_the_axis(cells: Source) -> None:
    (axes,) = curves.draw(curves.measure(cells, panel()), panel()).axes
    drawn = {tuple(line.get_ydata()) for line in axes.lines if list(line.get_xdata()) == [1, 4, 200]}
    assert (50.0, 62.5, 0.0) in drawn, "ASR on badnet"
    assert (50.0, 25.0, 0.0) in drawn, "CA"
    assert len([line for line in axes.lines if line.get_linestyle() == "--"]) == 2


def test_a_default_counts_as_a_setting_and_what_is_none_is_told(cells: Source) -> None:
    assert setting(cells, "backdoor", "advpt", "epochs", "key") == 200
    assert setting(cells, "backdoor", "rvpt", "shots", "key") == 8
    assert setting(cells, "backdoor", "advpt", "shots", "key") == cells.suite.protocol.shots == 1
    with pytest.raises(UserError, match=r"fig3\.key: unknown option of defense 'rvpt' 'alhpa'; did you mean 'alpha'"):
        setting(cells, "backdoor", "rvpt", "alhpa", "key")
    with pytest.raises(UserError, match="option 'augment' of defense 'rvpt' is True, not a number"):
        setting(cells, "backdoor", "rvpt", "augment", "key")


def test_a_cells_file_of_another_suite_is_told(cells: Source) -> None:
    path = cells.paths.boards / "cells.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("backdoor,rvpt,badnet")))
    with pytest.raises(UserError, match=r"has no cells of rvpt on badnet in track 'backdoor' on shapes \(test\)"):
        curves.measure(cells, panel())


@pytest.fixture
def attacked(tmp_path: Path) -> Source:
    """A sweep under two attacks, in a track without backdoors."""
    house = House(tmp_path)
    track = house.content["tracks"]["robust"]
    track["attacks"] = ["clean", "pgd", "autoattack", "replay"]
    track["defenses"] = {"none": {}, "rvpt": {"options": {"epochs": 4}}, "advpt": {"options": {"epochs": 2}}}
    for defense, outcome in {"rvpt": "1100", "advpt": "1000"}.items():
        for attack in track["attacks"]:
            house.put("robust", defense, attack, "1111" if attack == "clean" else outcome)
    house.put("robust", "rvpt", "replay", "1110")
    house.collect()
    return Source(house.suite, house.paths, "fig7")


def sweep(**changes: object) -> curves.Options:
    given = {"track": "robust", "dataset": "shapes", "defenses": ["rvpt", "advpt"], "option": "epochs"} | changes
    return curves.Options.model_validate({"panels": {"epochs": given}})


def test_robust_accuracy_has_a_line_for_each_named_attack(attacked: Source) -> None:
    frame = curves.measure(attacked, sweep(attacks=["pgd", "replay"]))
    assert set(frame["kind"]) == {"CA", "RA, pgd", "RA, replay"}
    values = frame.set_index(["kind", "x"])["value"]
    assert [values["RA, pgd", 4], values["RA, replay", 4], values["RA, pgd", 2]] == [50, 75, 25]
    (axes,) = curves.draw(frame, sweep(attacks=["pgd", "replay"])).axes
    strokes = {line.get_linestyle() for line in axes.lines if list(line.get_xdata()) == [2, 4]}
    assert strokes == {"--", "-", "-."}
    assert set(curves.measure(attacked, sweep())["kind"]) == {"CA"}, "no attack is shown unasked"


def test_a_sweep_without_a_cell_of_its_attack_is_told(attacked: Source) -> None:
    path = attacked.paths.boards / "cells.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("robust,rvpt,plain,shapes,test,pgd")))
    with pytest.raises(UserError, match="has no cells of rvpt on plain under pgd in track 'robust'"):
        curves.measure(attacked, sweep(attacks=["pgd"]))


def scenarios() -> bars.Options:
    inside = TRACK | {"defenses": {"VPT": "linear_probe", "RVPT": "rvpt"}}
    outside = TRACK | {"defenses": {"VPT": "none", "RVPT": "advpt"}}
    return bars.Options.model_validate({"scenarios": {"inside": inside, "outside": outside}})


def test_bars_stand_in_their_scenario_with_their_value(cells: Source) -> None:
    frame = bars.measure(cells, scenarios())
    assert set(frame["metric"]) == {"ASR"}
    means = over_seeds(frame, ["checkpoint", "scenario", "bar"]).set_index(["checkpoint", "scenario", "bar"])["value"]
    assert means["badnet", "inside", "RVPT"] == 62.5
    assert means["badnet", "outside", "VPT"] == 75
    assert np.isnan(means["blended", "outside", "RVPT"])
    badnet, blended = bars.draw(frame, scenarios()).axes
    assert [badnet.get_title(), blended.get_title()] == ["badnet", "blended"]
    heights = [[patch.get_height() for patch in container.patches] for container in badnet.containers[::2]]
    assert heights == [[50, 75], [62.5, 0]]
    assert "x" in [text.get_text() for text in blended.texts]


def test_checkpoints_of_the_same_name_share_a_panel(cells: Source) -> None:
    inside = TRACK | {"defenses": {"RVPT": "rvpt"}, "checkpoints": ["badnet"]}
    outside = TRACK | {"defenses": {"RVPT": "linear_probe"}, "checkpoints": ["blended"]}
    options = bars.Options.model_validate(
        {"scenarios": {"inside": inside, "outside": outside}, "names": {"badnet": "A", "blended": "A"}}
    )
    (panel_,) = bars.draw(bars.measure(cells, options), options).axes
    assert panel_.get_title() == "A"
    assert [patch.get_height() for patch in panel_.patches] == [62.5, 50]


def test_no_record_of_a_worst_case_is_drawn(cells: Source) -> None:
    """The worst case over attacks has rows of its own, which would be points drawn twice."""
    path = cells.paths.boards / "cells.csv"
    text = path.read_text()
    worst = next(line for line in text.splitlines() if line.startswith("backdoor,rvpt,badnet,shapes,test,trigger"))
    path.write_text(text + worst.replace(",trigger,none,", ",worst,white_box,") + "\n")
    frame = curves.measure(cells, panel())
    assert not pd.DataFrame(frame).duplicated(["x", "checkpoint", "metric", "seed"]).any()


@pytest.fixture
def robust(tmp_path: Path) -> Source:
    """Four defenses under attack; two of them with four shots, two with eight."""
    house = House(tmp_path)
    shots = {name: {"method": name[:4], "tuning": {"shots": int(name[4:])}} for name in ("rvpt4", "rvpt8")}
    fap = {name: {"method": "fap", "tuning": {"shots": count}} for name, count in (("few", 4), ("more", 8))}
    house.content["tracks"]["robust"]["defenses"] = {"none": {}, **shots, **fap}
    hits = {"none": "0000", "rvpt4": "1000", "rvpt8": "1100", "few": "1110", "more": "1111"}
    for defense, outcome in hits.items():
        house.put("robust", defense, "clean", "1111")
        house.put("robust", defense, "pgd", outcome)
        house.put("robust", defense, "autoattack", "0000")
    house.collect()
    return Source(house.suite, house.paths, "fig3")


def lines(**changes: object) -> curves.Options:
    names = {"RVPT": ["rvpt4", "rvpt8"], "FAP": ["few", "more"]}
    given = {"track": "robust", "dataset": "shapes", "option": "shots", "lines": names, "attacks": ["clean", "pgd"]}
    return curves.Options.model_validate({"panels": {"shots": given | changes}})


def test_named_lines_show_one_attack_beside_clean_accuracy(robust: Source) -> None:
    frame = curves.measure(robust, lines())
    means = over_seeds(frame, ["line", "metric", "x"]).set_index(["line", "metric", "x"])["value"].sort_index()
    assert means["RVPT", "RA"].to_dict() == {4: 25, 8: 50}
    assert means["FAP", "RA"].to_dict() == {4: 75, 8: 100}
    assert set(means["FAP", "CA"]) == {100}
    (axes,) = curves.draw(frame, lines()).axes
    drawn = {(line.get_linestyle(), tuple(line.get_ydata())) for line in axes.lines if len(line.get_xdata())}
    assert drawn == {("-", (25, 50)), ("-", (75, 100)), ("--", (100, 100))}


def test_a_panel_has_lines_or_defenses_and_two_points_at_least() -> None:
    for wrong in ({"defenses": ["few", "more"]}, {"lines": {}}, {"lines": {"RVPT": ["rvpt4"]}}):
        with pytest.raises(ValueError, match="line"):
            lines(**wrong)


def test_an_attack_that_the_track_does_not_have_is_told(robust: Source) -> None:
    (fault,) = faults_of(lines(attacks=["clean", "pdg"]), robust.suite, "key")
    assert "'pdg'" in fault
    assert "did you mean 'pgd'" in fault
