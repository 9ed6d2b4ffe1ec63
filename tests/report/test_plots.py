from pathlib import Path
from typing import Any

import pytest

from bench.report.plots import PlotGroup, analysis_group, plot_groups
from tests.leaderboard.conftest import METRICS, THREATS, House


def points(group: PlotGroup, number: int = 0) -> list[dict[str, Any]]:
    """The data of one chart."""
    (data,) = group.plots[number].spec["datasets"].values()
    return data


def group(house: House, title: str) -> PlotGroup:
    (found,) = [one for one in plot_groups(house.collect(), house.suite) if one.title.startswith(title)]
    return found


def test_a_point_is_clean_accuracy_and_attack_success_with_their_intervals(house) -> None:
    house.put("backdoor", "rvpt", "clean", "1110", checkpoint="badnet")
    house.put("backdoor", "rvpt", "trigger", "1000", checkpoint="badnet")
    found = group(house, "Clean accuracy against attack success")
    assert len(found.plots) == 1
    (point,) = [one for one in points(found) if (one["colour"], one["mark"]) == ("rvpt", "badnet")]
    assert (point["x"], point["y"]) == (75, 25)
    assert point["x_low"] < 75 < point["x_high"]
    assert point["y_low"] < 25 < point["y_high"]


def test_robust_accuracy_has_a_chart_for_each_dataset(house) -> None:
    found = group(house, "Clean against robust")
    assert [plot.title for plot in found.plots] == ["shapes, test (robust)", "digits, test (robust)"]
    assert {one["mark"] for one in points(found)} == {"pgd", "autoattack", "worst case"}


def test_a_cell_without_a_number_is_no_point(house) -> None:
    house.put("robust", "nap", "pgd", state="failed", reason="ValueError: no")
    marks = {(one["colour"], one["mark"]) for one in points(group(house, "Clean against robust"))}
    assert ("none", "pgd") in marks
    assert ("nap", "pgd") not in marks


def test_a_suite_without_backdoors_has_no_such_chart(house) -> None:
    del house.content["tracks"]["backdoor"], house.content["tables"]["rvpt_1"]
    titles = [one.title for one in plot_groups(house.collect(), house.suite)]
    assert titles == ["Clean against robust accuracy"]


@pytest.fixture
def sweep(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """``house`` with one attack at two eps."""
    for eps, hits in ((2, "1110"), (4, "1000")):
        name = f"pgd_{eps}"
        monkeypatch.setitem(THREATS, name, "white_box")
        monkeypatch.setitem(METRICS, name, "RA")
        house.content["attacks"][name] = {"threat_model": "white_box", "options": {"eps": eps}}
        house.content["tracks"]["robust"]["attacks"].append(name)
        for defense in ("none", "nap"):
            for dataset in ("shapes", "digits"):
                house.put("robust", defense, name, hits, dataset=dataset)
    return house


def test_attacks_that_differ_in_eps_form_a_line_that_starts_at_clean_accuracy(sweep) -> None:
    found = group(sweep, "Robust accuracy against eps")
    assert [plot.title for plot in found.plots] == ["pgd on shapes, test (robust)", "pgd on digits, test (robust)"]
    line = sorted((one["x"], one["y"]) for one in points(found) if one["colour"] == "nap")
    assert line == [(0, 25), (2, 75), (4, 25), (8, 25)]


def test_colours_mean_the_same_in_all_charts(house) -> None:
    scales = [
        layer["encoding"]["color"]["scale"]
        for one in plot_groups(house.collect(), house.suite)
        for plot in one.plots
        for layer in plot.spec["layer"]
    ]
    assert scales
    assert all(scale == scales[0] for scale in scales)
    assert scales[0]["domain"] == ["none", "nap", "rvpt"]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_ablation_curves_are_drawn_from_their_csv(tmp_path) -> None:
    path = write(
        tmp_path / "shots.csv",
        "panel,line,x,kind,defense,checkpoint,metric,value,low,high",
        "shots,RVPT,1,ASR,rvpt_1,badnet,ASR,60,55,65",
        "shots,RVPT,16,ASR,rvpt_16,badnet,ASR,20,15,25",
        "shots,VPT,1,ASR,vpt_1,badnet,ASR,80,75,85",
        "depth,RVPT,1,CA,rvpt,badnet,CA,90,88,92",
    )
    found = analysis_group("Shots", path)
    assert found is not None
    assert (found.title, [plot.title for plot in found.plots]) == ("Shots", ["shots", "depth"])
    drawn = [(one["colour"], one["x"], one["y"], one["mark"]) for one in points(found)]
    assert sorted(drawn) == [("RVPT", 1, 60, "ASR"), ("RVPT", 16, 20, "ASR"), ("VPT", 1, 80, "ASR")]


def test_resistivity_against_success_is_drawn_from_its_csv(tmp_path) -> None:
    path = write(
        tmp_path / "pr.csv",
        "panel,checkpoint,defense,pr,pr_low,pr_high,asr,asr_low,asr_high",
        "noise,badnet,rvpt,0.9,0.88,0.92,8,6,11",
    )
    found = analysis_group("pr", path)
    assert found is not None
    (point,) = points(found)
    assert (point["x"], point["y"], point["colour"], point["mark"]) == (0.9, 8, "badnet", "rvpt")


def test_other_numbers_are_no_chart(tmp_path) -> None:
    assert analysis_group("odd", write(tmp_path / "odd.csv", "a,b", "1,2")) is None
