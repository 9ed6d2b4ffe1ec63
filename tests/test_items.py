import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from bench import items
from bench.config import Metric, Options
from bench.defenses.contract import TunesOn
from bench.errors import UserError
from bench.items import Kind, item_ids, item_options, load_item, source_hash

KINDS: tuple[Kind, ...] = get_args(Kind)
NAMES = {
    "datasets": {"Options", "fetch"},
    "backdoors": {"Options", "make", "apply"},
    "attacks": {"Options", "METRIC", "attack"},
    "surrogates": {"Options", "GIVES", "make", "restore"},
    "defenses": {"Options", "TUNES_ON", "fit", "load"},
    "analyses": {"Options", "measure"},
}
PARAMETERS = {
    "fetch": ["options", "folder"],
    "make": ["options", "setting"],
    "apply": ["images", "kept", "options", "seeds"],
    "attack": ["model", "images", "labels", "options", "seeds", "knowledge"],
    "restore": ["tensors", "options", "task"],
    "fit": ["victim", "data", "options"],
    "load": ["tensors", "victim", "options"],
    "measure": ["source", "options"],
}
ANALYSED = [f"subjects/{name}" for name in ("models", "perturbations", "references")]
FURNITURE = [
    (kind, name)
    for kind, names in {
        "datasets": ["store", "world", "world_task", "sampling", "__init__"],
        "backdoors": ["trigger", "poison", "patch", "steganography", "make", "checkpoint", "__init__"],
        "attacks": ["checked", "contract", "__init__"],
        "defenses": ["contract", "artefact", "fitting", "tuning", "prompting", "adversarial", "__init__"],
        "analyses": ["contract", "run", "drawing/style", "formulas/similarity", *ANALYSED, "__init__"],
        "surrogates": ["contract", "folder", "plain", "__init__"],
    }.items()
    for name in names
]
ITEMS = [(kind, name) for kind in KINDS for name in item_ids(kind)]


def test_each_kind_has_its_items() -> None:
    assert {"shapes", "digits", "captions"} <= set(item_ids("datasets"))
    seven = {"badnet", "blended", "label_consistent", "issba", "wanet", "trojvqa", "badclip"}
    assert seven | {"none"} <= set(item_ids("backdoors"))
    assert {"clean", "trigger", "pgd", "autoattack"} <= set(item_ids("attacks"))
    assert {"none", "rvpt", "cleanclip", "linear_probe", "advpt", "nap_tuning"} <= set(item_ids("defenses"))
    assert {"curves", "bars", "resistivity", "attention", "embeddings", "costs"} <= set(item_ids("analyses"))
    assert all(item_ids(kind) == sorted(set(item_ids(kind))) for kind in KINDS)


@pytest.mark.parametrize(("kind", "name"), FURNITURE)
def test_files_that_serve_the_items_are_none_themselves(kind: Kind, name: str) -> None:
    assert (Path(inspect.getfile(items)).parent / kind / f"{name}.py").exists()
    assert name not in item_ids(kind)
    with pytest.raises(UserError, match=f"unknown .* '{name}'"):
        load_item(kind, name, "suite")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("attacks", "autoatack", "suite: unknown attack 'autoatack'; did you mean 'autoattack'?"),
        ("datasets", "digit", "suite: unknown dataset 'digit'; did you mean 'digits'?"),
        ("backdoors", "badnets", "suite: unknown backdoor 'badnets'; did you mean 'badnet'?"),
        ("defenses", "nap-tuning", "suite: unknown defense 'nap-tuning'; did you mean 'nap_tuning'?"),
        ("analyses", "embeding", "suite: unknown analysis 'embeding'; did you mean 'embeddings'?"),
    ],
)
def test_an_unknown_id_names_the_nearest(kind: Kind, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_item(kind, name, "suite")
    assert str(error.value) == message


@pytest.mark.parametrize(("kind", "name"), ITEMS)
def test_every_item_has_the_names_that_its_contract_asks_for(kind: Kind, name: str) -> None:
    module = load_item(kind, name, "suite")
    assert {wanted for wanted in NAMES[kind] if not hasattr(module, wanted)} == set()
    if kind == "surrogates":
        assert list(inspect.signature(module.make).parameters) == ["options", "data"]
    for function in NAMES[kind] & PARAMETERS.keys() - ({"make"} if kind == "surrogates" else set()):
        assert list(inspect.signature(getattr(module, function)).parameters) == PARAMETERS[function], function
    if kind == "attacks":
        assert module.METRIC in get_args(Metric)
    if kind == "defenses":
        assert module.TUNES_ON in get_args(TunesOn)
    if kind == "analyses":
        shown = [getattr(module, name) for name in ("draw", "table") if hasattr(module, name)]
        assert shown, "a picture or a table"
        assert all(list(inspect.signature(function).parameters) == ["frame", "options"] for function in shown)


@pytest.mark.parametrize(("kind", "name"), ITEMS)
def test_options_of_every_item_are_closed_frozen_and_have_defaults(kind: Kind, name: str) -> None:
    options = load_item(kind, name, "suite").Options
    assert issubclass(options, Options)
    assert (options.model_config["extra"], options.model_config["frozen"]) == ("forbid", True)
    if kind == "analyses":
        return  # what an analysis looks at has no default
    assert options.model_validate(options().model_dump(mode="json")) == options(), "stored options can be read back"


@pytest.mark.parametrize(("kind", "name"), ITEMS)
def test_every_item_says_what_it_is(kind: Kind, name: str) -> None:
    assert (load_item(kind, name, "suite").__doc__ or "").strip()


def test_wrong_options_are_told() -> None:
    with pytest.raises(UserError, match=r"suite: attacks\.pgd: stpes: unknown key 'stpes'; did you mean 'steps'\?"):
        item_options(load_item("attacks", "pgd", "suite"), {"stpes": 3}, "suite: attacks.pgd")


def test_other_packages_offer_items_through_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(Options=Options)

    def entry_points(group: str, name: str | None = None) -> list[Any]:
        point = SimpleNamespace(name="square", load=lambda: module)
        return [point] if group == "bench.attacks" and name in (None, "square") else []

    monkeypatch.setattr(items.metadata, "entry_points", entry_points)
    monkeypatch.setattr(items, "offered", items.offered.__wrapped__)  # what is installed was looked up before
    assert "square" in item_ids("attacks")
    assert "square" not in item_ids("defenses")
    assert load_item("attacks", "square", "suite") is module
    assert load_item("attacks", "pgd", "suite").METRIC == "RA"


def test_the_source_hash_follows_the_items_that_an_item_builds_on(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.py").write_text(f"{name} = 1\n")
    c = SimpleNamespace(__file__=str(tmp_path / "c.py"))
    b = SimpleNamespace(__file__=str(tmp_path / "b.py"), BUILDS_ON=(c,))
    a: Any = SimpleNamespace(__file__=str(tmp_path / "a.py"), BUILDS_ON=(b,))
    first = source_hash(a)
    (tmp_path / "c.py").write_text("c = 2\n")
    assert source_hash(a) != first


def test_attacks_name_the_attacks_whose_code_they_use() -> None:
    for name in item_ids("attacks"):
        module = load_item("attacks", name, "suite")
        used = {
            value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", "")
            for value in vars(module).values()
        }
        others = {f"bench.attacks.{other}" for other in item_ids("attacks")} - {module.__name__}
        assert {other.__name__ for other in getattr(module, "BUILDS_ON", ())} == used & others, name


def test_the_source_hash_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "item.py"
    path.write_text("a = 1\n")
    first = source_hash(SimpleNamespace(__file__=str(path)))  # type: ignore[arg-type]
    path.write_text("a = 2\n")
    assert source_hash(SimpleNamespace(__file__=str(path))) != first  # type: ignore[arg-type]
    path.write_text("a = 1\n")
    assert source_hash(SimpleNamespace(__file__=str(path))) == first  # type: ignore[arg-type]
