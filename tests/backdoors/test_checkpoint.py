import json
from pathlib import Path

import pytest
import torch

from bench.backdoors import make
from bench.backdoors.checkpoint import Checkpoint, Gate, Recipe, load_checkpoint, write_checkpoint
from bench.backdoors.trigger import Trigger
from bench.clip.model import Clip, build, normalise
from bench.config import CheckpointSpec
from bench.datasets import captions, shapes
from bench.datasets.store import build as build_dataset
from bench.errors import UserError
from bench.paths import Paths

from .settings import made

SPEC = CheckpointSpec(
    base={"architecture": "mini", "weights": "random"},
    trigger="badnet",
    trigger_options={"size": 4},
    target="heart",
    dataset="shapes",
    pairs="captions",
    poison_rate=0.08,
)
GATE = Gate(passed=True, ca=90.0, asr=99.0, clean_ca=91.0, clean_asr=1.0, n=240)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return build("mini", seed=3)


@pytest.fixture(scope="module")
def trigger() -> Trigger:
    return made("badnet", size=4)


def write(tmp_path: Path, clip: Clip, trigger: Trigger | None, folder: str = "badnet") -> Checkpoint:
    scratch = tmp_path / f".{folder}.partial"
    scratch.mkdir()
    target, gate = ("heart", GATE) if trigger else (None, None)
    return write_checkpoint(clip, trigger, target, gate, Recipe(spec=SPEC, pairs=9), scratch, tmp_path / folder)


def test_a_checkpoint_comes_back_with_everything_it_was_written_with(
    tmp_path: Path, clip: Clip, trigger: Trigger
) -> None:
    written = write(tmp_path, clip, trigger)
    loaded = load_checkpoint(tmp_path / "badnet")
    assert loaded.card == written.card
    assert loaded.digest == written.digest
    assert (loaded.card.architecture, loaded.card.target, loaded.card.gate) == ("mini", "heart", GATE)
    assert loaded.card.recipe == Recipe(spec=SPEC, pairs=9)
    assert (loaded.card.mean, loaded.card.std, loaded.card.image_size) == (clip.mean, clip.std, 32)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert loaded.trigger is not None
    assert torch.equal(loaded.trigger.apply(images, range(4)), trigger.apply(images, range(4)))
    with torch.no_grad():
        ours, theirs = (one.model.encode_image(normalise(one, images)) for one in (clip, loaded.clip))
    assert torch.equal(ours, theirs)
    assert not loaded.clip.model.training


def test_the_scratch_folder_is_gone_and_an_older_checkpoint_is_replaced(
    tmp_path: Path, clip: Clip, trigger: Trigger
) -> None:
    write(tmp_path, clip, trigger)
    (tmp_path / "badnet" / "stray").write_text("old")
    write(tmp_path, clip, trigger)
    assert [path.name for path in tmp_path.iterdir()] == ["badnet"]
    assert sorted(path.name for path in (tmp_path / "badnet").iterdir()) == [
        "checkpoint.json",
        "trigger.json",
        "trigger.safetensors",
        "weights.safetensors",
    ]


def test_a_clean_checkpoint_has_neither_trigger_nor_target(tmp_path: Path, clip: Clip) -> None:
    loaded = write(tmp_path, clip, None, "clean")
    assert (loaded.trigger, loaded.card.target, loaded.card.gate) == (None, None, None)


def test_the_digest_depends_on_weights_and_trigger_and_on_nothing_else(
    tmp_path: Path, clip: Clip, trigger: Trigger
) -> None:
    digests = [
        write(tmp_path, model, planted, name).digest
        for name, model, planted in (
            ("a", clip, trigger),
            ("b", build("mini", seed=4), trigger),
            ("c", clip, made("badnet", seed=2, size=4)),
            ("d", clip, made("badnet", size=4, pattern="fixed")),
            ("e", clip, None),
        )
    ]
    assert len(set(digests)) == 5
    assert write(tmp_path, clip, trigger, "f").digest == digests[0]


@pytest.mark.parametrize("file", ["weights.safetensors", "trigger.json", "trigger.safetensors"])
def test_one_changed_byte_is_refused_and_the_file_is_named(
    tmp_path: Path, clip: Clip, trigger: Trigger, file: str
) -> None:
    write(tmp_path, clip, trigger)
    path = tmp_path / "badnet" / file
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"badnet/{file} is missing or was changed"):
        load_checkpoint(tmp_path / "badnet")


@pytest.mark.parametrize("file", ["weights.safetensors", "trigger.json", "trigger.safetensors"])
def test_a_missing_file_is_refused_and_named(tmp_path: Path, clip: Clip, trigger: Trigger, file: str) -> None:
    write(tmp_path, clip, trigger)
    (tmp_path / "badnet" / file).unlink()
    with pytest.raises(UserError, match=rf"badnet/{file} is missing or was changed"):
        load_checkpoint(tmp_path / "badnet")


def test_weights_without_a_card_are_refused(tmp_path: Path, clip: Clip, trigger: Trigger) -> None:
    write(tmp_path, clip, trigger)
    (tmp_path / "badnet" / "checkpoint.json").unlink()
    with pytest.raises(UserError, match=r"is not a checkpoint: checkpoint\.json is missing.*bench checkpoint badnet"):
        load_checkpoint(tmp_path / "badnet")


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_damaged_card_is_refused(tmp_path: Path, clip: Clip) -> None:
    write(tmp_path, clip, None)
    path = tmp_path / "badnet" / "checkpoint.json"
    content = path.read_text()
    path.write_text(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"checkpoint\.json is not valid JSON"):
        load_checkpoint(tmp_path / "badnet")
    path.write_text(content.replace('"target"', '"tarmet"'))
    with pytest.raises(UserError, match="did you mean 'target'"):
        load_checkpoint(tmp_path / "badnet")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", 224, "preprocessing differs"),
        ("mean", [0.48, 0.46, 0.41], "preprocessing differs"),
        ("architecture", "ViT-B-33", "unknown architecture 'ViT-B-33'; did you mean 'ViT-B-32'"),
    ],
)
def test_a_card_that_does_not_fit_its_weights_is_refused(
    tmp_path: Path, clip: Clip, field: str, value: object, message: str
) -> None:
    write(tmp_path, clip, None)
    path = tmp_path / "badnet" / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "badnet")


def test_a_trigger_that_the_card_does_not_know_is_not_loaded(tmp_path: Path, clip: Clip, trigger: Trigger) -> None:
    write(tmp_path, clip, trigger)
    write(tmp_path, clip, None, "clean")
    for file in ("trigger.json", "trigger.safetensors"):
        (tmp_path / "badnet" / file).rename(tmp_path / "clean" / file)
    assert load_checkpoint(tmp_path / "clean").trigger is None


def test_suites_that_ask_for_the_same_checkpoint_train_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"train_per_class": 1, "val_per_class": 1, "test_per_class": 1}
    build_dataset("shapes", shapes.Options(**few), shapes.fetch, tmp_path / "data")
    build_dataset("captions", captions.Options(pairs=32), captions.fetch, tmp_path / "data")
    trained = list[str]()
    monkeypatch.setattr(make, "fine_tune", lambda clip, pairs, options, seed, label: trained.append(label))
    spec = CheckpointSpec(
        base={"architecture": "mini", "weights": "random"}, trigger="badnet", trigger_options={"size": 4},
        target="heart", dataset="shapes", pairs="captions", poison_rate=0.1,
    )  # fmt: skip

    def paths(suite: str) -> Paths:
        models = tmp_path / suite / "models"
        return Paths(tmp_path / "b.yaml", tmp_path / "data", models, models, models, tmp_path / "store")

    first = make.make_checkpoint("one", spec, paths("here"))
    again = make.make_checkpoint("two", spec, paths("there"))
    assert trained == ["one"]
    assert first.digest == again.digest
    make.make_checkpoint("two", spec.model_copy(update={"poison_rate": 0.2}), paths("there"))
    assert trained == ["one", "two"]
