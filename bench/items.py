"""Finding datasets, triggers, attacks, surrogates, defenses and analyses by name: an item is ``bench/<kind>/<id>.py``.

Packages outside this one offer items through entry points of the group ``bench.<kind>``, each naming a module.
"""

import ast
import importlib
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from bench.config import Options, parse
from bench.errors import unknown
from bench.files import sha256_of

Kind = Literal["datasets", "backdoors", "attacks", "surrogates", "defenses", "analyses"]
# The function that makes a file of a room an item; files without it serve the items.
_FUNCTIONS: dict[Kind, str] = {
    "datasets": "fetch",
    "backdoors": "apply",
    "attacks": "attack",
    "surrogates": "restore",
    "defenses": "fit",
    "analyses": "measure",
}


def item_ids(kind: Kind) -> list[str]:
    """Ids of all items of one kind: files that have ``Options`` and the function of their kind, and entry points."""
    files = [Path(str(entry)) for entry in resources.files(f"bench.{kind}").iterdir() if entry.name.endswith(".py")]
    here = {path.stem for path in files if {"Options", _FUNCTIONS[kind]} <= _names_in(path)}
    return sorted({*here, *offered(kind)})


@cache
def offered(kind: Kind) -> dict[str, metadata.EntryPoint]:
    """What installed packages offer; they are looked through once, for that takes longer than all the rest."""
    return {point.name: point for point in metadata.entry_points(group=f"bench.{kind}")}


@cache
def _names_in(path: Path) -> frozenset[str]:
    """What a module defines or imports, read without importing it."""
    names = set[str]()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name))
    return frozenset(names)


def load_item(kind: Kind, name: str, where: str) -> Any:
    """The module of an item.

    Args:
        kind: Which room to look in.
        name: Id of the item.
        where: File and key that hold the id, for the message.

    Raises:
        UserError: There is no such item; names the nearest one.
    """
    if name not in item_ids(kind):
        raise unknown("analysis" if kind == "analyses" else kind.removesuffix("s"), name, item_ids(kind), where)
    point = offered(kind).get(name)
    return point.load() if point else importlib.import_module(f"bench.{kind}.{name}")


def item_options(module: ModuleType, content: object, where: str) -> Options:
    """The item's own options, validated."""
    options: Options = parse(module.Options, content, where)
    return options


def source_file(kind: Kind, name: str) -> Path:
    """The file of an item."""
    return Path(str(load_item(kind, name, kind).__file__))


def source_hash(module: ModuleType) -> str:
    """Hash of the item's file and of the items it names in ``BUILDS_ON``: results of other code have another key."""
    return sha256_of(*_sources(module))


def _sources(module: ModuleType) -> list[Path]:
    others: tuple[ModuleType, ...] = getattr(module, "BUILDS_ON", ())
    return [Path(str(module.__file__)), *(path for other in others for path in _sources(other))]
