import pandas as pd
import pytest

from bench.errors import UserError
from bench.leaderboard.table import write_table
from bench.leaderboard.verify import read_cells

NUMBER = "25.0 [4.6, 69.9]"  # 1 of 4 and its Wilson interval


def cells_of_line(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_csv_has_the_papers_layout(house):
    house.fill("1000")
    house.put("backdoor", "rvpt", "trigger", "1110000", checkpoint="blended", flags=("odd",))
    lines, _ = house.table("rvpt_1")
    assert lines == [
        "defense,BadNet CA,BadNet ASR,blended CA,blended ASR,flags",
        "none,25.00,25.00,25.00,25.00,",
        "rvpt,25.00,25.00,25.00,42.86,odd",
    ]


def test_rows_follow_the_suite_and_the_worst_case_comes_last(house):
    house.fill("1000")
    house.put("robust", "nap", "pgd", "1110", flags=("nan",))
    house.put("robust", "nap", "autoattack", "0111", flags=("dynamic",))
    lines, _ = house.table("nap_1")
    assert lines == [
        "attack,defense,Shapes,digits,Avg,flags",
        "clean,CLIP,25.0,25.0,25.0,",
        "clean,nap,25.0,25.0,25.0,",
        "PGD-100,CLIP,25.0,25.0,25.0,control_survives",
        "PGD-100,nap,75.0,25.0,50.0,control_survives nan",
        "autoattack,CLIP,25.0,25.0,25.0,control_survives",
        "autoattack,nap,75.0,25.0,50.0,control_survives dynamic",
        "Worst case,CLIP,25.0,25.0,25.0,control_survives",
        "Worst case,nap,50.0,25.0,37.5,control_survives dynamic nan",
    ]


def test_the_worst_case_is_last_even_where_defenses_name_the_blocks(house):
    house.content["tables"]["nap_1"]["rows"] = ["defense", "attack"]
    house.fill("1000")
    lines, _ = house.table("nap_1")
    assert [line.split(",")[:2] for line in lines[1:]] == [
        ["CLIP", "clean"],
        ["CLIP", "PGD-100"],
        ["CLIP", "autoattack"],
        ["nap", "clean"],
        ["nap", "PGD-100"],
        ["nap", "autoattack"],
        ["CLIP", "Worst case"],
        ["nap", "Worst case"],
    ]


def test_twice_the_same_bytes(house):
    house.fill()
    assert house.table("nap_1") == house.table("nap_1")


def test_what_does_not_apply_is_a_dash(house):
    house.fill()
    house.put("backdoor", "rvpt", "trigger", state="not_applicable", reason="no text tower", checkpoint="badnet")
    lines, _ = house.table("rvpt_1")
    dashed = lines[2].split(",")
    assert dashed[lines[0].split(",").index("BadNet ASR")] == "-"
    assert dashed.count("-") == 1
    assert house.row(checkpoint="badnet", defense="rvpt", attack="trigger").reason == "no text tower"


@pytest.mark.parametrize("state", ["failed", "diverged", "timeout", "attack_failed", "missing"])
def test_every_state_is_printed_and_leaves_no_average(house, state):
    house.fill("1000")
    path = house.put("robust", "nap", "clean", state="failed" if state == "missing" else state, reason="why")
    if state == "missing":
        path.unlink()
    lines, text = house.table("nap_1")
    assert lines[2] == f"clean,nap,{state},25.0,-,"
    assert cells_of_line(text.splitlines()[5]) == ["clean", "nap", state, NUMBER, "-", ""]


def test_a_result_over_no_images_is_told(house):
    house.fill("1000")
    house.put("robust", "nap", "clean", "")
    lines, _ = house.table("nap_1")
    assert lines[2] == "clean,nap,no images,25.0,-,"


def test_what_the_suite_has_no_cell_for_is_a_dash(house):
    house.content["tables"]["nap_1"] |= {"rows": ["defense"], "columns": ["attack", "metric", "dataset"]}
    house.fill("1000")
    house.collect()
    path = house.paths.boards / "cells.csv"
    lines = [
        line for line in path.read_text().splitlines() if not line.startswith("robust,nap,plain,digits,test,clean")
    ]
    path.write_text("\n".join(lines) + "\n")
    write_table(house.suite, "nap_1", house.paths)
    first, _, nap = (house.paths.boards / "nap_1.csv").read_text().splitlines()
    assert first.startswith("defense,clean CA Shapes,clean CA digits,PGD-100 RA Shapes")
    assert nap.startswith("nap,25.0,-,25.0")


def test_without_the_option_there_is_no_average(house):
    house.content["tables"]["nap_1"]["average"] = False
    house.fill("1000")
    lines, _ = house.table("nap_1")
    assert lines[:2] == ["attack,defense,Shapes,digits,flags", "clean,CLIP,25.0,25.0,"]


def test_seeds_are_shown_as_mean_and_deviation(house):
    house.content["protocol"]["seeds"] = [1, 2, 3]
    house.fill("1000")
    for dataset, outcomes in {"shapes": ("1000", "1100", "1110"), "digits": ("1100", "1100", "1111")}.items():
        for seed, hits in enumerate(outcomes, start=1):
            house.put("robust", "nap", "clean", hits, seed=seed, dataset=dataset)
    lines, text = house.table("nap_1")
    # Shapes 25, 50, 75; digits 50, 50, 100; averages by seed 37.5, 50, 87.5.
    assert lines[2] == "clean,nap,50.0,66.7,58.3,"
    assert cells_of_line(text.splitlines()[4]) == ["clean", "CLIP", NUMBER, NUMBER, "25.0", ""]
    assert cells_of_line(text.splitlines()[5]) == ["clean", "nap", "50.0 ± 25.0", "66.7 ± 28.9", "58.3 ± 26.0", ""]
    assert "± is the standard deviation over 3 seeds" in text


def test_two_seeds_have_a_deviation_too(house):
    house.content["protocol"]["seeds"] = [1, 2]
    house.put("backdoor", "rvpt", "clean", "1000", seed=1)
    house.put("backdoor", "rvpt", "clean", "1100", seed=2)
    _, text = house.table("rvpt_1")
    assert "37.50 ± 17.68" in text


def test_a_seed_without_a_number_takes_the_others_down(house):
    house.content["protocol"]["seeds"] = [1, 2]
    house.fill("1000")
    house.put("robust", "nap", "clean", seed=2, state="diverged", reason="loss")
    lines, _ = house.table("nap_1")
    assert lines[2].startswith("clean,nap,diverged,missing,-")


def test_markdown_says_all_that_one_must_know(house):
    house.fill("0000")
    house.put("robust", "nap", "pgd", "1000", flags=("nan", "unheard_of"))
    for defense in ("none", "nap"):
        house.put("robust", defense, "clean", "10001000", dataset="digits")
    _, text = house.table("nap_1")
    title, _, heads, _, *_ = text.splitlines()
    assert title == "# Accuracy under attack"
    assert cells_of_line(heads) == ["attack", "defense", "Shapes", "digits", "Avg", "flags"]
    assert cells_of_line(text.splitlines()[7]) == [
        "PGD-100",
        "nap",
        NUMBER,
        "0.0 [0.0, 49.0]",
        "12.5",
        "nan unheard_of",
    ]
    assert "Images (n): Shapes 4; digits 8 (clean), 4 (PGD-100, autoattack, Worst case)." in text
    assert "Threat model: none (clean); white_box (PGD-100, autoattack, Worst case)." in text
    assert "- `nan`: the attack returned NaN" in text
    assert "- `unheard_of`: a warning of the attack itself." in text
    assert "zero_gradient" not in text
    assert "Warning" not in text
    assert "seeds" not in text


def test_a_surviving_control_marks_the_table(house):
    house.fill("0000")
    for dataset in ("shapes", "digits"):
        house.put("robust", "none", "pgd", "1000", dataset=dataset)
    _, text = house.table("nap_1")
    assert (
        "**Warning: under PGD-100 the undefended control keeps more than 5 % on Shapes (test, checkpoint plain), "
        "digits (test, checkpoint plain); no defense is credited with resisting this attack there.**\n" in text
    )
    assert text.count("Warning") == 1
    assert "- `control_survives`: " in text


def test_a_table_without_the_control_is_refused(house):
    house.fill()
    house.collect()
    path = house.paths.boards / "cells.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if ",none,plain" not in line) + "\n")
    with pytest.raises(UserError, match=r"tables\.nap_1: .* control 'none' in track 'robust'.* bench collect"):
        write_table(house.suite, "nap_1", house.paths)


def test_a_description_that_hides_cells_is_refused(house):
    house.content["tables"]["nap_1"]["rows"] = ["defense"]
    house.content["tables"]["rvpt_1"]["columns"] = ["metric"]
    house.fill()
    with pytest.raises(UserError, match=r"tables\.nap_1: .*'none'.*'shapes'.* differ in attack, threat_model, metric"):
        house.table("nap_1")
    with pytest.raises(UserError, match=r"tables\.rvpt_1: .* differ in checkpoint;"):
        house.table("rvpt_1")


def test_metrics_may_tell_attacks_apart(house):
    house.content["tracks"]["robust"]["attacks"] = ["clean", "pgd"]
    house.content["tables"]["nap_1"] |= {"rows": ["defense"], "columns": ["dataset", "metric"], "average": False}
    house.fill("1000")
    lines, _ = house.table("nap_1")
    assert lines[0] == "defense,Shapes CA,Shapes RA,digits CA,digits RA,flags"


def test_a_table_must_not_overwrite_the_cells(house):
    house.content["tables"]["cells"] = house.content["tables"]["nap_1"]
    house.fill()
    with pytest.raises(UserError, match=r"tables\.cells: .*rename"):
        house.table("cells")
    assert len(read_cells(house.paths.boards / "cells.csv"))


def test_a_table_may_show_several_tracks_and_only_some_of_their_cells(house):
    house.content["tables"]["both"] = {
        "title": "Chosen",
        "tracks": ["backdoor", "robust"],
        "only": {"defense": ["none"], "attack": ["clean", "pgd"]},
        "rows": ["track", "checkpoint"],
        "columns": ["dataset", "metric"],
    }
    house.fill("1000")
    lines, _ = house.table("both")
    assert lines == [
        "track,checkpoint,shapes CA,shapes RA,digits CA,digits RA,flags",
        "robust,plain,25.0,25.0,25.0,25.0,control_survives",
        "backdoor,badnet,25.0,-,-,-,",
        "backdoor,blended,25.0,-,-,-,",
    ]


def test_ids_that_are_written_alike_share_a_column(house):
    spec = {"title": "Two models", "tracks": ["backdoor", "robust"], "only": {"attack": ["clean"]}}
    house.content["tables"]["both"] = spec | {
        "rows": ["track", "defense", "dataset"],
        "columns": ["checkpoint", "metric"],
        "names": {"plain": "BadNet", "badnet": "BadNet"},
    }
    house.fill("1000")
    lines, _ = house.table("both")
    assert lines[0] == "track,defense,dataset,BadNet CA,blended CA,flags"
    assert "backdoor,none,shapes,25.0,25.0," in lines
    assert "robust,none,digits,25.0,-," in lines


def test_ids_that_are_written_alike_do_not_hide_each_other(house):
    house.content["tables"]["rvpt_1"]["names"] = {"badnet": "BadNet", "blended": "BadNet"}
    house.fill("1000")
    with pytest.raises(UserError, match="holds several cells, which differ in checkpoint"):
        house.table("rvpt_1")


def with_replay(house, **table):
    """The robust track with a replayed attack too, in a table with a column for each attack."""
    house.content["tracks"]["robust"]["attacks"].append("replay")
    spec = {"rows": ["dataset", "defense"], "columns": ["attack"], "average": False, "gaps": {"replay": "autoattack"}}
    house.content["tables"]["nap_1"] |= spec | table
    house.fill("1000")
    house.put("robust", "nap", "replay", "1111")
    house.put("robust", "nap", "autoattack", "0000")


def test_the_gap_between_two_threat_models_is_a_column(house):
    with_replay(house)
    house.put("robust", "none", "replay", state="failed", reason="why")
    lines, text = house.table("nap_1")
    assert lines == [
        "dataset,defense,clean,PGD-100,autoattack,replay,Worst case,replay - autoattack,flags",
        "Shapes,CLIP,25.0,25.0,25.0,failed,25.0,-,control_survives",
        "Shapes,nap,25.0,25.0,0.0,100.0,0.0,+100.0,control_survives",
        "digits,CLIP,25.0,25.0,25.0,25.0,25.0,+0.0,control_survives",
        "digits,nap,25.0,25.0,25.0,25.0,25.0,+0.0,control_survives",
    ]
    assert "replay - autoattack: the difference in points." in text
    # Whatever a replayed attack finds, an attacker who sees the defense can find too.
    known = pd.read_csv(house.paths.boards / "nap_1.long.csv").set_index(["row", "column"])["worst_known"]
    assert known["Shapes / nap", "replay"] == known["Shapes / nap", "autoattack"] == 0
    assert (house.paths.boards / "nap_1.tex").read_text().count("replay - autoattack") == 1


def test_each_gap_is_between_columns_that_are_alike_otherwise(house):
    with_replay(house, rows=["defense"], columns=["dataset", "attack"])
    lines, _ = house.table("nap_1")
    assert lines[0].split(",")[-3:-1] == ["Shapes replay - Shapes autoattack", "digits replay - digits autoattack"]
    assert lines[2].split(",")[-3:-1] == ["+100.0", "+0.0"]


def test_a_position_may_be_the_mean_over_datasets(house):
    with_replay(house, rows=["defense"], mean_over=["dataset"])
    lines, text = house.table("nap_1")
    assert lines[2] == "nap,25.0,25.0,12.5,62.5,12.5,+50.0,control_survives"
    # 5 of the 8 images of both datasets.
    assert "62.5 [30.6, 86.3]" in text
    assert "Each is the mean over dataset, with the interval of all its images." in text


def test_a_mean_needs_all_that_it_is_over(house):
    with_replay(house, rows=["defense"], mean_over=["dataset"])
    house.put("robust", "nap", "replay", state="failed", reason="why", dataset="digits")
    lines, _ = house.table("nap_1")
    assert lines[2] == "nap,25.0,25.0,12.5,-,12.5,-,control_survives"


def test_a_mean_over_sets_of_unequal_size_has_no_interval_of_its_own(house):
    with_replay(house, rows=["defense"], mean_over=["dataset"])
    house.put("robust", "nap", "replay", "11000000", dataset="digits")
    lines, text = house.table("nap_1")
    assert lines[2].split(",")[4] == "62.5"
    assert "| 62.5 |" in " ".join(text.split())
