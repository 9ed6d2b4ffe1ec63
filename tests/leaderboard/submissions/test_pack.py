"""From local results, or from images alone, to a submission that passes; with the real mini model for the images."""

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from bench.attacks import pgd
from bench.attacks.contract import Knowledge
from bench.backdoors.checkpoint import load_checkpoint
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import StagedCLIP
from bench.config import Suite, load_suite, parse
from bench.datasets.store import open_split, read_manifest
from bench.defenses.artefact import task_of
from bench.errors import UserError
from bench.files import sha256_of
from bench.leaderboard.records import read_lines
from bench.leaderboard.submissions.check import check
from bench.leaderboard.submissions.pack import Request, pack
from bench.leaderboard.verify import read_cells
from bench.paths import Paths, paths_for
from tests.leaderboard.submissions.conftest import HITS, REFERENCE, Desk
from tests.test_cli import bench
from tests.test_pipeline import SMALL

PEOPLE = {"authors": ["A. Stranger"], "contact": "https://example.org", "licence": "CC0-1.0", "redistribution": True}
CELL = "clean.shapes.test.seed1"


def request(**ids: Any) -> Request:
    return parse(Request, {"track": "robust", "defense": "nap"} | ids, "test")


def packed(desk: Desk, name: str, **ids: Any) -> Path:
    folder = desk.house.paths.data / name
    pack(folder, request(**ids), desk.house.suite, desk.house.paths)
    return folder


def put_result(desk: Desk) -> None:
    desk.house.put("robust", "nap", "autoattack", HITS, dataset="digits", hashed=desk.hashed, flags=("nan",))


def test_what_only_people_know_is_what_is_missing(desk):
    put_result(desk)
    folder = packed(desk, "mine", kind="result", attack="autoattack")
    (record,) = read_lines(folder / "records.jsonl")  # the other dataset is in the boards already
    assert record.identity.cell.dataset == "digits"
    assert [fault.partition(";")[0] for fault in desk.check(folder)] == [
        "submission.yaml: authors and contact: say who made this and how to reach them",
        "submission.yaml: licence: name the licence of the content, such as CC-BY-4.0",
        "submission.yaml: redistribution: must be true, for everyone who clones the repository gets the content",
    ]
    desk.edit(folder, **PEOPLE)
    assert desk.check(folder) == []


def test_an_attack_of_ones_own_is_packed_from_its_results(desk):
    made = desk.record("nap", "pgd", "11000000")
    cell = made.identity.cell.model_copy(update={"attack": "mine"})
    made = made.model_copy(update={"identity": made.identity.model_copy(update={"cell": cell, "attack": "m" * 64})})
    path = desk.house.paths.evaluated("robust", "nap", "mine") / f"{cell.name}.json"
    path.parent.mkdir(parents=True)
    path.write_text(made.model_dump_json())
    suite = copy.deepcopy(desk.house.content)
    suite["attacks"]["mine"] = suite["attacks"]["pgd"]
    suite["tracks"]["robust"]["attacks"].append("mine")
    folder = desk.house.paths.data / "mine"
    ids = request(kind="evaluation", attack="mine", against="pgd")
    pack(folder, ids, Suite.model_validate(suite), desk.house.paths)
    desk.edit(folder, code=REFERENCE, **PEOPLE)
    assert desk.check(folder) == []


def test_a_packed_defense_passes(desk):
    original = dict(desk.house.content["tracks"]["robust"]["defenses"])
    desk.house.content["tracks"]["robust"]["defenses"]["fresh"] = {}
    for attack in ("clean", "pgd", "autoattack"):
        for dataset in ("shapes", "digits"):
            desk.house.put("robust", "fresh", attack, HITS, dataset=dataset, hashed=desk.hashed)
    folder = packed(desk, "fresh", kind="defense", defense="fresh")
    desk.edit(folder, code=REFERENCE, weights=REFERENCE, **PEOPLE)
    desk.house.content["tracks"]["robust"]["defenses"] = original
    assert desk.check(folder) == []


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"kind": "result", "track": "robus"}, "--track: unknown track 'robus'; did you mean 'robust'"),
        ({"kind": "result", "defense": "napp"}, "--defense: unknown defense 'napp'; did you mean 'nap'"),
        (
            {"kind": "result", "attack": "pgdd"},
            "there are no results of nap under pgdd that the boards do not have; run: bench evaluate",
        ),
        ({"kind": "evaluation", "against": "pgd", "images": Path("nowhere")}, "nowhere has no images of a cell of nap"),
    ],
)
def test_what_cannot_be_packed_is_told_and_leaves_nothing(desk, ids, message):
    with pytest.raises(UserError, match=message):
        packed(desk, "mine", **ids)
    assert not (desk.house.paths.data / "mine").exists()


def test_a_folder_is_not_overwritten(desk):
    put_result(desk)
    packed(desk, "mine", kind="result")
    with pytest.raises(UserError, match="is there already"):
        packed(desk, "mine", kind="result")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the undefended mini model was evaluated under a weak attack, and images of a stronger one."""
    folder = tmp_path_factory.mktemp("small")
    suite = SMALL | {"datasets": {"shapes": SMALL["datasets"]["shapes"]}}
    suite["attacks"] = SMALL["attacks"] | {"pgd": {"threat_model": "white_box", "options": {"eps": 8, "steps": 1}}}
    suite["checkpoints"] = {"clean": SMALL["checkpoints"]["clean"]}
    track = SMALL["tracks"]["adversarial"] | {"defenses": {"none": {}}}
    suite["tracks"] = {"adversarial": track}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("benchmark.yaml").write_text(yaml.safe_dump(suite))
        for verb in ("fetch shapes", "checkpoint clean", "defend adversarial", "evaluate adversarial", "collect"):
            assert bench(*verb.split()) == 0
        Path("found").mkdir()
        save_file({"images": attacked(paths_for())}, Path("found") / f"{CELL}.safetensors")
    return folder


@pytest.fixture
def found(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The images, in a copy of the small folder."""
    monkeypatch.chdir(shutil.copytree(small, tmp_path / "copy"))
    return Path("found")


def attacked(paths: Paths) -> np.ndarray:
    manifest = read_manifest(paths.data, "shapes")
    split = open_split(paths.data, manifest, "test")
    clip = load_checkpoint(paths.checkpoint("clean")).clip
    model = DefendedCLIP(StagedCLIP(clip)).classifier(task_of(manifest))
    rows, options = range(len(split.labels)), pgd.Options(eps=8, step=2, steps=10)
    images, labels = split.batch(slice(None)), split.targets(slice(None))
    made = pgd.attack(model, images, labels, options=options, seeds=list(rows), knowledge=Knowledge())
    assert (made.images - images).abs().max() <= 8 / 255 + 1e-6
    return made.images.numpy()


def test_images_alone_become_an_evaluation_that_lowers_the_row(found, capsys):
    ids = {"kind": "evaluation", "track": "adversarial", "defense": "none", "attack": "longer", "against": "pgd"}
    options = [word for name, value in ids.items() for word in (f"--{name}", value)]
    assert bench("submit", "pack", "weaker", *options, "--images", str(found)) == 0
    (record,) = read_lines(Path("weaker/records.jsonl"))
    assert record.value is not None
    before = cells()
    assert record.value < before["pgd"].value - 1

    capsys.readouterr()
    assert bench("submit", "check", "weaker") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert all(reason in message for reason in ("authors and contact", "licence: name", "redistribution: must be true"))
    sign(Path("weaker"))
    assert bench("submit", "check", "weaker") == 0
    assert bench("submit", "add", "weaker", "--recheck") == 0

    after = cells()
    assert (after["longer"].n, after["longer"].hits, after["longer"].submission) == (record.n, record.hits, "weaker")
    assert after["worst"].value <= after["longer"].value < before["pgd"].value
    assert "not_rechecked" not in after["longer"].flags
    assert "rechecked: true" in Path("leaderboards/submissions/weaker/submission.yaml").read_text()


def test_images_that_do_not_fool_the_model_are_found_out(found, capsys):
    ids = {"kind": "evaluation", "track": "adversarial", "defense": "none", "attack": "longer", "against": "pgd"}
    suite, folder = load_suite(Path("benchmark.yaml")), Path("forged")
    (place,) = pack(folder, parse(Request, ids | {"images": found}, "test"), suite, paths_for()).images.values()
    # The clean images stay within eps, and the records still say that they fool the model.
    split = open_split(Path("data"), read_manifest(Path("data"), "shapes"), "test")
    save_file({"images": np.array(split.images)}, folder / place)
    sign(folder, files={name: sha256_of(folder / name) for name in ("records.jsonl", place)})
    assert bench("submit", "check", "forged") == 0
    capsys.readouterr()
    assert bench("submit", "check", "forged", "--recheck") == 2
    assert "the model says something else to" in " ".join(capsys.readouterr().err.split())


def test_another_model_than_the_boards_is_not_asked(found, capsys):
    ids = {"kind": "evaluation", "track": "adversarial", "defense": "none", "attack": "longer", "against": "pgd"}
    shutil.rmtree("models/defended")
    suite = load_suite(Path("benchmark.yaml"))
    with pytest.raises(UserError, match=r"artefact\.json is missing"):
        pack(Path("x"), parse(Request, ids | {"images": found}, "test"), suite, paths_for())


def sign(folder: Path, **changes: Any) -> None:
    """Fill in what only people know."""
    path = folder / "submission.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | PEOPLE | changes))


def cells() -> dict[str, Any]:
    return {line.attack: line for line in read_cells(Path("leaderboards/cells.csv")).itertuples()}


def test_only_images_can_be_shown_to_the_model_again(desk):
    (fault,) = check(desk.result(), desk.house.suite, desk.house.paths, recheck=True)
    assert fault.startswith("there are no images to classify again")
