import pytest

from bench.errors import UserError
from bench.leaderboard.published import AVERAGE, IDS, read_published
from tests.leaderboard.published import HEADER, PAPERS, folder, published, section

FEW_SHOT = {
    *("imagenet", "caltech101", "dtd", "eurosat", "fgvc_aircraft", "food101", "flowers102", "oxford_pets"),
    *("stanford_cars", "sun397", "ucf101"),
}
ZERO_SHOT = FEW_SHOT - {"ucf101"} | {"cifar10", "cifar100", "stl10", "caltech256", "country211", "pcam"}
SHIFTED = {"imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch"}
KNOWN = {
    "architecture": {"ViT-B-32", "ViT-B-16", "ViT-L-14", "llava-1.5-7b", "Qwen3-VL-8B"},
    "dataset": FEW_SHOT | ZERO_SHOT | SHIFTED | {"flickr30k", "coco_captions", "coco_vqa", "vqav2", AVERAGE},
    "checkpoint": {
        *("clean", "supervised", "badnet", "blended", "label_consistent", "issba", "wanet", "trojvqa", "badclip"),
        *("trojvlm", "vlood"),
    },
    "defense": {
        *("none", "cleanclip", "linear_probe", "rvpt", "vpt", "cleanclip+linear_probe", "rvpt+linear_probe"),
        *("cleanclip+rvpt", "fap", "advpt", "advpt_v", "advpt_vli", "advpt_vlj", "nap_tuning", "advvp", "advvlp"),
        *("advmaple", "cba_fapt", "tecoa", "tga", "fare", "r_adapt_clip", "r_adapt_tecoa", "r_adapt_tga"),
        *("r_adapt_fare", "r_adapt_plus", "st", "bdmae", "zip", "cleansight"),
    },
    "attack": {
        *("clean", "trigger", "pgd", "autoattack", "cwa", "ags", "cw", "apgd_ce", "apgd_dlr", "fab", "square"),
        *("retrieval", "v_attack", "gaussian_noise", "gaussian_blur", "color_jitter", "horizontal_flip"),
    },
}
# Copied by hand from the papers: table, dataset, checkpoint, defense, attack, eps, metric, setting, value.
SPOTS = {
    "rvpt": [
        ("table_1", "imagenet", "trojvqa", "cleanclip", "clean", "", "CA", "", "54.90"),
        ("table_1", "imagenet", "issba", "rvpt", "trigger", "", "ASR", "", "0.01"),
        ("table_2", "oxford_pets", "blended", "none", "trigger", "", "ASR", "", "100"),
        ("table_3", "caltech101", "badnet", "rvpt", "trigger", "", "ASR", "target_class=absent", "2.29"),
        ("table_4", "oxford_pets", "wanet", "rvpt", "clean", "", "CA", "tuned_on=imagenet", "76.79"),
        ("table_5", "imagenet_sketch", "blended", "cleanclip", "clean", "", "CA", "", "34.33"),
        ("table_s1", "imagenet", "clean", "vpt", "trigger", "", "PR", "trigger=badclip", "0.550"),
        ("table_s2", "imagenet", "badclip", "cleanclip+linear_probe", "trigger", "", "ASR", "", "53.30"),
        ("table_s4", "imagenet", "badclip", "rvpt", "trigger", "", "ASR", "permutation=intertwine", "27.02"),
        ("table_s7", "imagenet", "", "rvpt", "", "", "training_seconds", "", "2705"),
    ],
    "nap_tuning": [
        ("table_1", "fgvc_aircraft", "clean", "advpt_vlj", "ags", "", "RA", "", "7.5"),
        ("table_1", AVERAGE, "clean", "nap_tuning", "autoattack", "1", "RA", "", "51.4"),
        ("table_2", "food101", "clean", "none", "clean", "", "CA", "", "80.4"),
        ("table_2", "caltech101", "clean", "fap", "pgd", "1", "RA", "", "67.1"),
        ("table_3", "flowers102", "clean", "nap_tuning", "pgd", "8", "RA", "train_eps=4", "11.8"),
        ("text", "imagenet", "clean", "nap_tuning", "pgd", "1", "RA", "refiner_layers=0", "1.9"),
    ],
    "cba_fapt": [
        ("table_1", "eurosat", "clean", "none", "pgd", "1", "RA", "", "0.03"),
        ("table_1", "oxford_pets", "clean", "cba_fapt", "clean", "", "CA", "tuned_on=imagenet", "81.20"),
        ("table_2", AVERAGE, "clean", "fap", "pgd", "1", "RA", "classes=new", "21.86"),
        ("table_3", AVERAGE, "clean", "cba_fapt", "clean", "", "CA", "classes=base;losses=adv+nat", "69.11"),
    ],
    "r_adapt": [
        ("table_1", "pcam", "clean", "r_adapt_clip", "clean", "", "CA", "", "51.6"),
        ("table_1", "fgvc_aircraft", "clean", "tecoa", "apgd_ce", "4", "RA", "", "15.2"),
        ("table_2", AVERAGE, "clean", "r_adapt_tga", "pgd", "4", "RA_gain", "over=tga", "-0.9"),
        ("table_3", AVERAGE, "clean", "r_adapt_plus", "square", "2", "RA", "", "65.1"),
        ("table_4", "flickr30k", "clean", "fare", "retrieval", "4", "R@1", "", "77.3"),
        ("table_5", "coco_vqa", "clean", "r_adapt_plus", "v_attack", "16", "RA", "train_eps=8", "61.9"),
        ("table_6", "food101", "clean", "r_adapt_plus", "apgd_ce", "4", "RA", "parts=filter", "30.3"),
        ("table_7", "eurosat", "clean", "r_adapt_plus", "apgd_ce", "4", "RA", "images=5000", "35.5"),
        ("table_8", "caltech256", "clean", "r_adapt_plus", "apgd_ce", "4", "RA", "epochs=20", "89.5"),
        ("table_9", "", "", "r_adapt_clip", "", "", "beta", "", "-0.8"),
        ("table_11", "coco_captions", "clean", "none", "v_attack", "16", "RA", "", "28.7"),
    ],
    "cleansight": [
        ("main_results", "vqav2", "issba", "cleansight", "trigger", "", "ASR", "", "2.34"),
        ("main_results", "vqav2", "vlood", "none", "clean", "", "CU", "", "53.65"),
        ("baseline_defenses", "vqav2", "wanet", "zip", "trigger", "", "ASR", "", "7.03"),
    ],
}
LINE = "table_1,FAP,Pets,ViT-B-16,clean,oxford_pets,fap,pgd,1,RA,images=5;shots=4,33.70,"


@pytest.fixture
def paper(tmp_path):
    def write(*lines, header=HEADER):
        (tmp_path / "table_1.csv").write_text("\n".join((header, *lines)) + "\n")
        return tmp_path

    return write


@pytest.mark.parametrize("name", PAPERS)
def test_each_readme_counts_the_numbers_of_each_table(name):
    counts = {file.strip("`"): int(count) for file, _, count in section(name, "Tables")}
    values = published(name).dropna(subset="value")
    assert counts == {f"{table}.csv": len(lines) for table, lines in values.groupby("table")}


@pytest.mark.parametrize("name", PAPERS)
def test_only_ids_that_are_meant_are_used(name):
    for column, known in KNOWN.items():
        assert set(published(name)[column]) <= known | {""}


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("attack", ["clean", "trigger"])
def test_each_metric_goes_with_its_attack(name, attack):
    lines = published(name)
    lines = lines[lines["attack"] == attack]
    undisturbed = {"CA", "CU", "R@1", "R@10"}
    expected = undisturbed | {f"{metric}_gain" for metric in undisturbed} if attack == "clean" else {"ASR", "PR"}
    assert set(lines["metric"]) <= expected


@pytest.mark.parametrize(("name", "spot"), [(name, spot) for name, spots in SPOTS.items() for spot in spots])
def test_values_taken_by_hand(name, spot):
    columns = ["table", "dataset", "checkpoint", "defense", "attack", "eps", "metric", "setting"]
    *ids, value = spot
    lines = published(name)
    (line,) = lines[(lines[columns] == ids).all(axis=1)].itertuples()
    assert f"{line.value:.{line.decimals}f}" == value


@pytest.mark.parametrize(
    ("name", "table", "datasets", "rows"),
    [
        ("nap_tuning", "table_1", FEW_SHOT, 5 * 7),
        ("nap_tuning", "table_2", FEW_SHOT, 5 * 7),
        ("cba_fapt", "table_1", FEW_SHOT, 2 * 6),
        ("r_adapt", "table_1", ZERO_SHOT, 2 * 9),
    ],
)
def test_each_row_has_all_datasets_and_their_average_once(name, table, datasets, rows):
    lines = published(name)
    numbers = lines[(lines["table"] == table) & ~lines["metric"].str.endswith("_gain")]
    groups = numbers.groupby(["row", *(column for column in IDS if column != "dataset")])
    assert len(groups) == rows
    for _, group in groups:
        assert sorted(group["dataset"]) == sorted({*datasets, AVERAGE})


def test_rvpt_has_both_numbers_of_each_cell():
    lines = published("rvpt")
    for _, pair in lines[lines["metric"].isin(["ASR", "CA"])].groupby(["table", "row", "column"]):
        assert list(pair["metric"]) == ["ASR", "CA"]


def test_a_line_keeps_its_text_and_the_decimals_of_its_number(paper):
    (line,) = read_published(paper(LINE)).itertuples(index=False)
    assert (line.table, line.row, line.column, line.eps) == ("table_1", "FAP", "Pets", "1")
    assert (line.setting, line.value, line.decimals, line.note) == ("images=5;shots=4", 33.7, 2, "")


def test_a_number_that_cannot_be_read_is_nan_with_a_note(paper):
    (line,) = read_published(paper(LINE.replace("33.70,", ",the scan is black"))).itertuples()
    assert line.value != line.value
    assert line.note == "the scan is black"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("table_1,", "table_2,", "line 2: table: 'table_2' does not belong in this file; write 'table_1'"),
        ("oxford_pets", "Oxford Pets", "line 2: dataset: "),
        ("fap,pgd", "fap+,pgd", "line 2: defense: "),
        ("pgd,1", "pgd,1/255", "line 2: eps: "),
        (",RA,", ",RAs,", "line 2: metric: unknown metric 'RAs'; did you mean 'RA'?"),
        ("images=5;shots=4", "shots=4;images=5", "line 2: setting: 'shots=4;images=5' must name each key once"),
        ("images=5;shots=4", "shots", "line 2: setting: "),
        ("33.70", "5492", r"line 2: value: 5492 is no RA, which lies in \[0.0, 100.0\]"),
        ("33.70", "-0.1", "line 2: value: -0.1 is no RA"),
        ("33.70", "nan", "line 2: value: "),
        ("33.70", "33,7", "line 2 has 14 values, not 13"),
        ("33.70", "", "line 2: value: a number is missing"),
        ("FAP,", ",", "line 2: row: "),
    ],
)
def test_a_damaged_line_is_named(paper, before, after, message):
    folder = paper(LINE.replace(before, after, 1))
    with pytest.raises(UserError, match=message) as raised:
        read_published(folder)
    assert str(folder / "table_1.csv") in str(raised.value)


def test_a_place_may_be_named_once_per_metric(paper):
    other = LINE.replace("pgd,1,RA", "clean,,CA")
    assert len(read_published(paper(LINE, other))) == 2
    with pytest.raises(UserError, match=r"line 4 repeats line 2 \(FAP, Pets, RA\)"):
        read_published(paper(LINE, other, LINE.replace("33.70", "33.80")))


@pytest.mark.parametrize("header", [HEADER.replace("eps", "epsilon"), HEADER + ",unit", ""])
def test_columns_are_closed(paper, header):
    with pytest.raises(UserError, match="line 1 has the columns"):
        read_published(paper(LINE, header=header))


def test_a_file_in_another_encoding_is_named(paper):
    folder = paper(LINE)
    (folder / "table_1.csv").write_text(f"{HEADER}\n{LINE}±0.1\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"table_1\.csv is not UTF-8"):
        read_published(folder)


def test_a_folder_without_tables_is_no_paper(tmp_path):
    with pytest.raises(UserError, match="holds no CSV of published values"):
        read_published(tmp_path)


def test_no_other_file_lies_among_the_tables():
    for name in PAPERS:
        assert {path.suffix for path in folder(name).iterdir()} == {".csv", ".md"}
