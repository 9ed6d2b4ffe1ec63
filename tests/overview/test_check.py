"""Faults of a suite that reading it does not find, all at once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.config import Suite
from bench.datasets import captions, shapes
from bench.datasets.store import build
from bench.overview.check import check_suite
from bench.paths import Paths

ROOT = Path(__file__).resolve().parents[2]
Check = Callable[[dict], list[str]]


@pytest.fixture
def check(read_suite: Callable[[dict], Suite], paths: Paths) -> Check:
    return lambda content: check_suite(read_suite(content), paths.suite)


@pytest.fixture
def fetched(paths: Paths, content: dict) -> None:
    for name, module in (("shapes", shapes), ("captions", captions)):
        build(name, module.Options(**content["datasets"][name]), module.fetch, paths.data)


def test_a_right_suite_has_no_faults(check: Check, content: dict) -> None:
    assert check(content) == []


@pytest.mark.usefixtures("fetched")
def test_a_right_suite_has_no_faults_with_its_data(check: Check, content: dict) -> None:
    assert check(content) == []


def test_the_networks_behind_issba_are_checked_where_a_checkpoint_needs_them(check: Check, content: dict) -> None:
    content["checkpoints"]["badnet"] |= {"trigger": "issba", "trigger_options": {}}
    assert check(content) == ["benchmark.yaml: steganography: dataset: Field required"]
    content["steganography"] = {"dataset": "caption", "steps": 5}
    assert check(content) == [
        "benchmark.yaml: steganography.dataset: unknown dataset 'caption'; did you mean 'captions'?"
    ]
    content["steganography"] = {"dataset": "captions", "bit": 5}
    assert check(content) == ["benchmark.yaml: steganography: bit: unknown key 'bit'; did you mean 'bits'?"]


def test_weights_that_a_stage_trains_need_not_be_there_yet(check: Check, content: dict) -> None:
    content["pretraining"] = {"own": {"architecture": "mini_photos", "pairs": "captions", "options": {"steps": 5}}}
    weights = "models/pretrained/{}/weights.safetensors"
    content["checkpoints"]["clean"]["base"] = {"architecture": "mini_photos", "weights": weights.format("own")}
    assert check(content) == []
    content["checkpoints"]["clean"]["base"]["weights"] = weights.format("other")
    content["pretraining"]["own"]["options"]["step"] = 5
    assert check(content) == [
        "benchmark.yaml: pretraining.own.options: step: unknown key 'step'; did you mean 'steps'?",
        "benchmark.yaml: checkpoints.clean.base.weights: models/pretrained/other/weights.safetensors is missing",
    ]


def test_misspelt_keys_are_found_everywhere_at_once(check: Check, content: dict) -> None:
    content["tracks"]["adversarial"]["defenses"]["rvpt"] = {"options": {"epoch": 4}}
    content["tracks"]["backdoor"]["defenses"]["both"] = {
        "method": "cleanclip+rvpt",
        "options": {"rvpt": {"lenght": 3}, "cleanclp": {}},
    }
    content["checkpoints"]["badnet"]["train"]["batchsize"] = 3
    content["checkpoints"]["badnet"]["gate"] = {"least_asd": 3}
    content["checkpoints"]["badnet"]["trigger_options"]["sise"] = 4
    content["checkpoints"]["clean"]["base"] = {"architecture": "mini", "weight": "random"}
    content["attacks"]["pgd"]["options"]["step_size"] = 1
    content["datasets"]["shapes"]["train_per_clas"] = 2
    faults = check(content)
    assert set(faults) == {
        "benchmark.yaml: datasets.shapes: train_per_clas: unknown key 'train_per_clas'; "
        "did you mean 'train_per_class'?",
        "benchmark.yaml: attacks.pgd.options: step_size: unknown key 'step_size'; did you mean 'steps'?",
        "benchmark.yaml: checkpoints.clean.base: weights: Field required",
        "benchmark.yaml: checkpoints.clean.base: weight: unknown key 'weight'; did you mean 'weights'?",
        "benchmark.yaml: checkpoints.badnet.trigger_options: sise: unknown key 'sise'; did you mean 'size'?",
        "benchmark.yaml: checkpoints.badnet.train: batchsize: unknown key 'batchsize'; did you mean 'batch_size'?",
        "benchmark.yaml: checkpoints.badnet.gate: least_asd: unknown key 'least_asd'; did you mean 'least_asr'?",
        "benchmark.yaml: tracks.backdoor.defenses.both.options: unknown part 'cleanclp'; did you mean 'cleanclip'?",
        "benchmark.yaml: tracks.backdoor.defenses.both.options.rvpt: lenght: unknown key 'lenght'; "
        "did you mean 'length'?",
        "benchmark.yaml: tracks.adversarial.defenses.rvpt.options: epoch: unknown key 'epoch'; did you mean 'epochs'?",
    }
    assert len(faults) == len(set(faults))


def test_unknown_items_and_models(check: Check, content: dict) -> None:
    content["datasets"]["shaeps"] = {}
    content["attacks"]["pdg"] = {"threat_model": "white_box"}
    content["tracks"]["adversarial"]["defenses"]["rvtp"] = {}
    content["checkpoints"]["badnet"]["trigger"] = "badent"
    content["checkpoints"]["badnet"]["base"] = {"architecture": "ViT-B-32", "weights": "shipped"}
    content["checkpoints"]["clean"]["base"] = {"architecture": "mini", "weights": "models/absent.safetensors"}
    content["checkpoints"]["other"] = {"base": {"architecture": "ViT-B-33", "weights": "random"}, "trigger": "none"}
    faults = "\n".join(check(content))
    for told in (
        "unknown dataset 'shaeps'; did you mean 'shapes'?",
        "unknown attack 'pdg'; did you mean 'pgd'?",
        "unknown defense 'rvtp'; did you mean 'rvpt'?",
        "checkpoints.badnet.trigger: unknown backdoor 'badent'; did you mean 'badnet'?",
        "checkpoints.badnet.base.weights: unknown weights of 'ViT-B-32' 'shipped'",
        "checkpoints.clean.base.weights: models/absent.safetensors is missing",
        "checkpoints.other.base.architecture: unknown architecture 'ViT-B-33'; did you mean 'ViT-B-32'?",
    ):
        assert told in faults


@pytest.mark.usefixtures("fetched")
def test_classes_splits_shots_and_captions_of_fetched_datasets(check: Check, content: dict) -> None:
    content["checkpoints"]["badnet"]["target"] = "hart"
    content["checkpoints"]["badnet"]["pairs"] = "shapes"
    content["tracks"]["adversarial"]["splits"] = ["tset"]
    content["protocol"]["shots"] = 3
    faults = check(content)
    assert set(faults) == {
        "benchmark.yaml: checkpoints.badnet.target: unknown class of 'shapes' 'hart'; did you mean 'heart'?",
        "benchmark.yaml: checkpoints.badnet.pairs: dataset 'shapes' has no captions in a split 'train'",
        "benchmark.yaml: tracks.adversarial.defenses.rvpt: 3 shots per class are asked, but a class of 'shapes' has "
        "2 training images",
        "benchmark.yaml: tracks.adversarial.splits: unknown split of 'shapes' 'tset'; did you mean 'test'?",
        "benchmark.yaml: tracks.backdoor.datasets (trigger on badnet): unknown class of 'shapes' 'hart'; "
        "did you mean 'heart'?",
    }


def test_things_that_cannot_work_together(check: Check, content: dict) -> None:
    content["tracks"]["adversarial"]["attacks"] = ["clean", "trigger"]
    content["tracks"]["adversarial"]["defenses"]["cleanclip"] = {}
    content["tracks"]["adversarial"]["defenses"]["later"] = {"method": "rvpt", "tuning": {"without_target": True}}
    content["checkpoints"]["badnet"]["poison_rate"] = 0
    faults = "\n".join(check(content))
    assert "tracks.adversarial: 'trigger' counts a backdoor's success, but checkpoint 'clean' has none" in faults
    assert "tracks.adversarial.defenses.cleanclip: 'cleanclip' tunes on captions" in faults
    assert "later.tuning.without_target: checkpoint 'clean' is clean and has no target" in faults
    assert "checkpoints.badnet.poison_rate: 0 plants no backdoor" in faults


def test_tables_whose_positions_hold_several_cells(check: Check, content: dict) -> None:
    content["tables"]["one"]["rows"] = ["defense", "metric"]
    content["tables"]["two"] |= {"rows": ["defense"], "columns": []}
    content["tracks"]["backdoor"]["checkpoints"].append("second")
    content["checkpoints"]["second"] = content["checkpoints"]["badnet"]
    content["tables"]["one"]["columns"] = ["metric", "dataset"]
    assert check(content) == [
        "benchmark.yaml: tables.one: metric named twice in rows, columns and mean_over; once is enough",
        "benchmark.yaml: tables.one: cells that differ in checkpoint fall on one position; add it to rows or columns",
        "benchmark.yaml: tables.two.columns: empty; name at least one of what the cells are told apart by",
        "benchmark.yaml: tables.two: cells that differ in attack fall on one position; add it to rows or columns",
    ]


def test_analyses_and_what_they_name(check: Check, content: dict) -> None:
    analysis = content["analyses"]["map"]
    content["analyses"]["other"] = {"method": "embedings", "title": "Other"}
    content["analyses"]["cells"] = analysis
    content["analyses"]["wrong"] = analysis | {"options": {"dataset": "shapes", "model": {}}}
    model = {"track": "backdoor", "defense": "cleanclp", "checkpoint": "badnt"}
    content["analyses"]["map"] = analysis | {"options": {"dataset": "shape", "models": {"CLIP": model}}}
    assert set(check(content)) == {
        "benchmark.yaml: analyses.other.method: unknown analysis 'embedings'; did you mean 'embeddings'?",
        "benchmark.yaml: analyses.cells: this name would overwrite cells.csv; rename the analysis",
        "benchmark.yaml: analyses.wrong.options: models: Field required",
        "benchmark.yaml: analyses.wrong.options: model: unknown key 'model'; did you mean 'models'?",
        "benchmark.yaml: analyses.map.options.dataset: unknown dataset 'shape'; did you mean 'shapes'?",
        "benchmark.yaml: analyses.map.options.models.CLIP.defense: unknown defense of track 'backdoor' 'cleanclp'; "
        "did you mean 'cleanclip'?",
        "benchmark.yaml: analyses.map.options.models.CLIP.checkpoint: unknown checkpoint of track 'backdoor' 'badnt'; "
        "did you mean 'badnet'?",
    }


def test_an_item_that_cannot_be_imported_is_one_fault(
    check: Check, content: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench.overview.check as module

    real = module.load_item

    def broken(kind: str, name: str, where: str) -> object:
        if name == "rvpt":
            raise ImportError("No module named 'wandb'")
        return real(kind, name, where)

    monkeypatch.setattr(module, "load_item", broken)
    assert check(content) == [
        "benchmark.yaml: tracks.adversarial.defenses.rvpt: 'rvpt' cannot be imported: No module named 'wandb'"
    ]


@pytest.mark.parametrize(
    "path",
    [
        "benchmark.yaml",
        "leaderboards/caltech_mini/benchmark.yaml",
        "leaderboards/photos/benchmark.yaml",
        "leaderboards/rvpt_mini/benchmark.yaml",
    ],
)
def test_the_suite_is_right(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    from bench.config import load_suite

    monkeypatch.chdir(ROOT)
    assert check_suite(load_suite(Path(path)), Path(path)) == []


def test_gaps_lie_between_columns_of_attacks_that_are_there(check: Check, content: dict) -> None:
    content["tables"]["one"] |= {"rows": ["attack"], "columns": ["defense"], "gaps": {"pgd": "clen"}}
    content["tables"]["one"]["mean_over"] = ["checkpoint", "defense", "dataset", "metric"]
    faults = check(content)
    assert "benchmark.yaml: tables.one.gaps: lie between columns of attacks; name attack in columns" in faults
    assert "benchmark.yaml: tables.one.gaps: unknown attack 'clen'; did you mean 'clean'?" in faults
    assert "benchmark.yaml: tables.one: defense named twice in rows, columns and mean_over; once is enough" in faults


def test_ids_that_a_table_shows_must_be_there(check: Check, content: dict) -> None:
    content["tables"]["one"]["only"] = {"checkpoint": ["badnt"]}
    faults = check(content)
    assert faults == ["benchmark.yaml: tables.one.only.checkpoint: unknown checkpoint 'badnt'; did you mean 'badnet'?"]
