"""Finding datasets, triggers, attacks, surrogates and defenses by name: an item is the file ``bench/<kind>/<id>.py``.

Packages outside this one offer items through entry points of the group ``bench.<kind>``, each naming a module.
"""

import importlib
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from bench.config import Options, parse
from bench.errors import unknown
from bench.files import sha256_of

Kind = Literal["datasets", "backdoors", "attacks", "surrogates", "defenses"]
# Files in the rooms that serve the items and are none themselves.
_FURNITURE = {
    "datasets": {"store", "world", "world_task", "sampling"},
    "backdoors": {"trigger", "poison", "make", "checkpoint"},
    "attacks": {"checked", "contract"},
    "surrogates": {"contract", "folder", "plain"},
    "defenses": {"contract", "artefact", "tuning"},
}


def item_ids(kind: Kind) -> list[str]:
    """Ids of all items of one kind."""
    here = {Path(entry.name).stem for entry in resources.files(f"bench.{kind}").iterdir() if entry.name.endswith(".py")}
    outside = {point.name for point in metadata.entry_points(group=f"bench.{kind}")}
    return sorted((here - {"__init__"} - _FURNITURE[kind]) | outside)


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
        raise unknown(kind.removesuffix("s"), name, item_ids(kind), where)
    for point in metadata.entry_points(group=f"bench.{kind}", name=name):
        return point.load()
    return importlib.import_module(f"bench.{kind}.{name}")


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
