from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from bench.attacks import pgd
from bench.backdoors.make import GateOptions, TrainOptions
from bench.clip.model import Base
from bench.config import AttackSpec, DefenseSpec, Suite, Track, load_suite, parse
from bench.defenses.artefact import parts_of
from bench.errors import UserError, unknown
from bench.items import item_options, load_item

REPOSITORY = Path(__file__).parents[1]
SMALL = """
protocol: {version: 1, batch_size: 8, seeds: [1], shots: 4}
datasets: {shapes: {}, captions: {pairs: 10}}
checkpoints:
  clean: {base: {architecture: mini, weights: random}, trigger: none}
  badnet:
    base: {architecture: mini, weights: random}
    trigger: badnet
    trigger_options: {size: 4}
    target: heart
    dataset: shapes
    pairs: captions
    poison_rate: 0.1
attacks:
  clean: {threat_model: none}
  pgd: {threat_model: white_box, images: 10, options: {eps: 4}}
tracks:
  main:
    checkpoints: [clean, badnet]
    datasets: [shapes]
    pairs: captions
    attacks: [clean, pgd]
    defenses: {none: {}, rvpt: {options: {depth: 2}}}
tables:
  t1: {title: T, tracks: [main], rows: [defense], columns: [metric]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "benchmark.yaml"


def loaded(path: Path, *changes: tuple[str, str]) -> Suite:
    text = SMALL
    for old, new in changes:
        assert text.count(old) == 1, f"'{old}' must stand once in the suite"
        text = text.replace(old, new)
    path.write_text(text)
    return load_suite(path)


def faults(path: Path, *changes: tuple[str, str]) -> list[str]:
    with pytest.raises(UserError) as error:
        loaded(path, *changes)
    return str(error.value).splitlines()


def test_a_right_suite_loads_with_its_values(path: Path) -> None:
    suite = loaded(path)
    assert suite.protocol.batch_size == 8
    assert (suite.checkpoints["badnet"].trigger, suite.checkpoints["badnet"].trigger_options) == ("badnet", {"size": 4})
    assert suite.tracks["main"].splits == ("test",)
    assert suite.attacks["pgd"].images == 10


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("poison_rate", "poisn_rate", "badnet.poisn_rate: unknown key 'poisn_rate'; did you mean 'poison_rate'?"),
        ("batch_size", "batchsize", "protocol.batchsize: unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("threat_model: white_box", "threat_model: white_box, optoins: {}", "did you mean 'options'?"),
        ("tables:", "tables: {}\ntabels:", "tabels: unknown key 'tabels'; did you mean 'tables'?"),
        ("rows:", "roes: [], rows:", "tables.t1.roes: unknown key 'roes'; did you mean 'rows'?"),
        ("    defenses:", "    defences: {}\n    defenses:", "did you mean 'defenses'?"),
    ],
)
def test_a_misspelt_key_names_file_key_and_the_nearest_key(path: Path, old: str, new: str, message: str) -> None:
    lines = faults(path, (old, new))
    assert any(line.startswith(f"{path}: ") and message in line for line in lines), lines


def test_a_key_like_none_that_exists_lists_the_known_ones(path: Path) -> None:
    (line,) = faults(path, ("shots: 4", "shots: 4, zzz: 1"))
    assert line.endswith("unknown key 'zzz'; known: batch_size, control_ceiling, seeds, shots, version")


def test_a_checkpoint_that_is_named_like_a_field_does_not_confuse_the_nearest_key(path: Path) -> None:
    text = SMALL.replace("  clean: {base:", "  base: {bsae: {}, base:").replace("[clean, badnet]", "[base, badnet]")
    path.write_text(text)
    with pytest.raises(UserError, match=r"checkpoints\.base\.bsae: unknown key 'bsae'; did you mean 'base'\?"):
        load_suite(path)


def test_a_missing_key_is_named(path: Path) -> None:
    assert faults(path, (", shots: 4", "")) == [f"{path}: protocol.shots: Field required"]


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("batch_size: 8", "batch_size: 0", ["protocol.batch_size", "greater than 0", "given: 0"]),
        ("seeds: [1]", "seeds: []", ["protocol.seeds", "at least 1 item"]),
        ("white_box", "whitebox", ["attacks.pgd.threat_model", "'white_box'", "given: 'whitebox'"]),
        ("poison_rate: 0.1", "poison_rate: 1.5", ["checkpoints.badnet.poison_rate", "less than or equal to 1"]),
        ("trigger: badnet", "trigger: {badnet: {}}", ["checkpoints.badnet.trigger", "valid string"]),
        ("columns: [metric]", "columns: [metrics]", ["tables.t1.columns", "given: 'metrics'"]),
        ("images: 10", "images: ten", ["attacks.pgd.images", "given: 'ten'"]),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_itself(path: Path, old: str, new: str, messages: list[str]) -> None:
    (line,) = faults(path, (old, new))
    assert line.startswith(f"{path}: ")
    assert [message for message in messages if message not in line] == []


def test_several_faults_are_told_at_once(path: Path) -> None:
    lines = faults(path, ("shots: 4", "shotz: 4"), ("batch_size: 8", "batch_size: many"), ("rows:", "rows: [], rwos:"))
    for part in ("protocol.shots: Field required", "'shotz'; did you mean 'shots'?", "given: 'many'", "'rwos'"):
        assert sum(part in line for line in lines) == 1, lines
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "    dataset: shapes",
            "    dataset: shaps",
            "badnet.dataset: unknown dataset 'shaps'; did you mean 'shapes'?",
        ),
        (
            "    pairs: captions\n    poison",
            "    pairs: caption\n    poison",
            "badnet.pairs: unknown dataset 'caption'",
        ),
        (
            "[clean, badnet]",
            "[clean, badnets]",
            "tracks.main.checkpoints: unknown checkpoint 'badnets'; did you mean 'badnet'?",
        ),
        (
            "datasets: [shapes]",
            "datasets: [shape]",
            "tracks.main.datasets: unknown dataset 'shape'; did you mean 'shapes'?",
        ),
        ("    pairs: captions\n    attacks", "    pairs: capptions\n    attacks", "unknown dataset 'capptions'"),
        (
            "attacks: [clean, pgd]",
            "attacks: [clean, pdg]",
            "tracks.main.attacks: unknown attack 'pdg'; did you mean 'pgd'?",
        ),
        ("tracks: [main]", "tracks: [mian]", "tables.t1.tracks: unknown track 'mian'; did you mean 'main'?"),
        ("{none: {}, rvpt", "{rvpt", "tracks.main.defenses (the undefended control): unknown defense 'none'"),
    ],
)
def test_an_unknown_reference_is_told(path: Path, old: str, new: str, message: str) -> None:
    (line,) = faults(path, (old, new))
    assert line.startswith(f"{path}: ")
    assert message in line


def test_several_unknown_references_are_told_at_once(path: Path) -> None:
    lines = faults(path, ("attacks: [clean, pgd]", "attacks: [cleen, pdg]"), ("tracks: [main]", "tracks: [mian]"))
    assert [any(name in line for line in lines) for name in ("'cleen'", "'pdg'", "'mian'")] == [True] * 3
    assert len(lines) == 3


def test_a_clean_checkpoint_needs_no_dataset(path: Path) -> None:
    assert loaded(path).checkpoints["clean"].dataset == ""


@pytest.mark.parametrize(
    "content", [b"a: [1, 2", b"\ta: 1", b"a: b: c", b"protocol: \xff\xfe\x00"], ids=["open", "tab", "colons", "binary"]
)
def test_what_is_not_yaml_is_told(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path} is not valid YAML"):
        load_suite(path)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just words\n", "3\n"])
def test_yaml_that_is_no_mapping_is_told(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(UserError, match=str(path)):
        load_suite(path)


def test_a_missing_suite_is_told(path: Path) -> None:
    with pytest.raises(UserError, match=r"benchmark\.yaml is missing; run .* or pass --suite"):
        load_suite(path)


def test_what_was_read_cannot_be_changed(path: Path) -> None:
    suite = loaded(path)
    with pytest.raises(ValidationError, match="frozen"):
        suite.protocol.shots = 1  # type: ignore[misc]


def test_options_of_an_item_are_told_with_the_place_they_stand_at(path: Path) -> None:
    with pytest.raises(UserError) as error:
        parse(pgd.Options, {"esp": 4, "steps": -1}, f"{path}: attacks.pgd.options")
    assert str(error.value).splitlines() == [
        f"{path}: attacks.pgd.options: steps: Input should be greater than or equal to 0 (given: -1)",
        f"{path}: attacks.pgd.options: esp: unknown key 'esp'; did you mean 'eps'?",
    ]


def test_a_defense_may_say_its_method_its_prompt_and_what_it_is_tuned_on(path: Path) -> None:
    entry = "few: {method: rvpt, template: 'a {}.', tuning: {dataset: captions, shots: 2}}"
    track = (suite := loaded(path, ("rvpt: {options", f"{entry}, rvpt: {{options"))).tracks["main"]
    assert (track.method("few"), track.method("rvpt")) == ("rvpt", "rvpt")
    assert (track.tuning_datasets("few"), track.tuning_datasets("rvpt")) == (["captions"], ["shapes"])
    assert (suite.shots("main", "few"), suite.shots("main", "rvpt")) == (2, 4)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("few: {tuning: {dataset: shaeps}}", "few.tuning.dataset: unknown dataset 'shaeps'; did you mean 'shapes'?"),
        ("few: {tuning: {shots: 0}}", "few.tuning.shots: Input should be greater than 0 (given: 0)"),
        ("few: {template: no braces}", "few.template: String should match pattern"),
        ("few: {alpha: 2}", "few.alpha: unknown key 'alpha'; known: method, options, template, tuning"),
        ("few-shot: {}", "tracks.main.defenses.few-shot"),
    ],
)
def test_faults_in_a_defenses_entry(path: Path, entry: str, message: str) -> None:
    assert message in "\n".join(faults(path, ("rvpt: {options", f"{entry}, rvpt: {{options")))


def test_the_nearest_name_is_only_offered_when_it_is_near() -> None:
    assert "did you mean 'shapes'?" in str(unknown("dataset", "shaeps", ["shapes", "digits"], "here"))
    assert str(unknown("dataset", "cifar", ["shapes", "digits"], "here")) == (
        "here: unknown dataset 'cifar'; known: digits, shapes"
    )


def test_an_option_for_a_part_that_a_composed_defense_does_not_have_is_told() -> None:
    def parts(options: dict) -> list[str]:
        track = Track(
            defenses={"both": DefenseSpec(method="rvpt+linear_probe", options=options)},
            checkpoints=(), datasets=(), attacks=(),
        )  # fmt: skip
        return [part.name for part in parts_of(track, "both", "suite")]

    assert parts({"rvpt": {"depth": 2}}) == ["rvpt", "linear_probe"]
    with pytest.raises(UserError, match="rvtp"):
        parts({"rvtp": {"depth": 2}})


@pytest.fixture(scope="module", params=["benchmark.yaml", "leaderboards/rvpt_mini/benchmark.yaml"])
def suite_file(request: pytest.FixtureRequest) -> Path:
    return REPOSITORY / request.param


@pytest.fixture(scope="module")
def shipped(suite_file: Path) -> Suite:
    return load_suite(suite_file)


def test_the_suite_of_the_repository_loads(suite_file: Path, shipped: Suite) -> None:
    assert shipped.tracks
    assert shipped.tables
    assert shipped.control == "none"
    assert yaml.safe_load(suite_file.read_text()).keys() <= set(Suite.model_fields)


def test_the_options_of_every_item_in_the_repositorys_suite_are_right(shipped: Suite) -> None:
    where = "benchmark.yaml"
    seen: list[Any] = []
    for name, options in shipped.datasets.items():
        seen.append(item_options(load_item("datasets", name, where), options, where))
    for name in shipped.attacks:
        method = load_item("attacks", shipped.method_of(name), where)
        seen.append(item_options(method, shipped.attacks[name].options, where))
    for track in shipped.tracks.values():
        for defense in track.defenses:
            seen += [part.options for part in parts_of(track, defense, where)]
    for spec in shipped.checkpoints.values():
        seen += [
            parse(Base, spec.base, where),
            parse(TrainOptions, spec.train, where),
            parse(GateOptions, spec.gate, where),
        ]
        seen.append(item_options(load_item("backdoors", spec.trigger, where), spec.trigger_options, where))
    assert len(seen) >= 20


def test_targets_of_the_repositorys_suite_are_classes_of_their_datasets(shipped: Suite, tmp_path: Path) -> None:
    few = {"train_per_class": 1, "val_per_class": 1, "test_per_class": 1}
    for name, spec in shipped.checkpoints.items():
        if spec.trigger != "none":
            module = load_item("datasets", spec.dataset, "benchmark.yaml")
            (tmp_path / name).mkdir()
            described = module.fetch(module.Options(**few), tmp_path / name)
            assert spec.target in described.class_names


def test_a_sample_may_have_another_size_for_single_datasets():
    spec = AttackSpec(threat_model="white_box", images=48, images_of={"digits": 16})
    assert (spec.sample("shapes"), spec.sample("digits")) == (48, 16)
    assert AttackSpec(threat_model="white_box").sample("shapes") is None


def test_a_size_for_an_unknown_dataset_is_refused(path):
    told = faults(path, ("images: 10,", "images: 10, images_of: {shape: 4},"))
    assert "attacks.pgd.images_of" in told[0]
    assert "'shapes'" in told[0]
