"""What there is to choose from: items of all kinds, and the options of one of them."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable
from importlib import util
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.config import Options, Suite, models_in
from bench.errors import unknown
from bench.items import Kind, item_ids, load_item, offered
from bench.progress import console

KINDS: tuple[Kind, ...] = get_args(Kind)
_SENTENCE_END = re.compile(r"\.\s+(?=[A-Z`])")
_ATTRIBUTE = re.compile(r"\w+:")
_LIMIT = re.compile(r"\w+\((\w+)=(.*)\)")
_MODULE = re.compile(r"\b(?:\w+\.)+(?=\w)")
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def list_items(suite: Suite, out: Console = console) -> None:
    """Print one table per kind: each item's id, whether the suite uses it, and the first sentence of its docstring."""
    for kind in KINDS:
        used = used_items(suite, kind)
        table = Table(title=kind, title_justify="left", title_style="bold", box=None, expand=True)
        table.add_column("id", no_wrap=True)
        table.add_column("used")
        table.add_column("what it is", ratio=1)
        for name in item_ids(kind):
            table.add_row(name, "yes" if name in used else "", escape(first_sentence(_docstring(kind, name))))
        out.print(table)
        out.print()


def describe_item(kind: Kind, name: str, out: Console = console) -> None:
    """Print an item's docstring and its options with their types, defaults and meaning.

    Raises:
        UserError: There is no such item.
    """
    module = load_item(kind, name, "command line")
    options: type[Options] = module.Options
    out.print(f"[bold]{escape(name)}[/] ({kind}), {module.__file__}", highlight=False, soft_wrap=True)
    for paragraph in inspect.cleandoc(module.__doc__ or "").split("\n\n"):
        out.print(escape(_plain(paragraph)), highlight=False)
    if not options.model_fields:
        out.print("\nno options", highlight=False)
        return
    out.print()
    out.print(_option_table(options, "option"))
    for part in _parts_of(options):
        out.print()
        out.print(_option_table(part, part.__name__))


def kinds_of(name: str) -> list[Kind]:
    """The kinds that have an item called ``name``.

    Raises:
        UserError: No kind has one.
    """
    found: list[Kind] = [kind for kind in KINDS if name in item_ids(kind)]
    if not found:
        raise unknown("item", name, {item for kind in KINDS for item in item_ids(kind)}, "command line")
    return found


def used_items(suite: Suite, kind: Kind) -> set[str]:
    """Ids of the items of one kind that the suite names."""
    used: dict[Kind, Iterable[str]] = {
        "datasets": suite.datasets,
        "backdoors": (checkpoint.trigger for checkpoint in suite.checkpoints.values()),
        "attacks": map(suite.method_of, suite.attacks),
        "surrogates": (surrogate.recipe for surrogate in suite.surrogates.values()),
        "defenses": (
            part for track in suite.tracks.values() for name in track.defenses for part in track.method(name).split("+")
        ),
        "analyses": (analysis.method for analysis in suite.analyses.values()),
    }
    return set(used[kind])


def first_sentence(text: str) -> str:
    """``text`` up to its first full stop that ends a sentence, on one line and without backquotes."""
    sentence = _SENTENCE_END.split(inspect.cleandoc(text).split("\n\n")[0], maxsplit=1)[0]
    return _plain(sentence).removesuffix(".")


def option_meanings(options: type[BaseModel]) -> dict[str, str]:
    """What each option means: the ``Attributes`` sections of the class and of those it extends."""
    meanings = dict[str, str]()
    for ancestor in reversed(options.__mro__):
        section = inspect.cleandoc(ancestor.__doc__ or "").partition("\nAttributes:\n")[2]
        name = ""
        for line in textwrap.dedent(section).splitlines():
            if _ATTRIBUTE.match(line):
                name, _, text = line.partition(":")
                meanings[name] = text.strip()
            elif line.startswith(" ") and name:
                meanings[name] += f" {line.strip()}"
            elif line:
                break
    return {name: meaning for name, meaning in meanings.items() if name in options.model_fields}


def _option_table(options: type[BaseModel], title: str) -> Table:
    """The fields of ``options``, with ``title`` over their names."""
    table = Table(box=None, expand=True)
    table.add_column(title, no_wrap=True)
    table.add_column("type")
    table.add_column("default")
    table.add_column("meaning", ratio=1)
    meanings = option_meanings(options)
    for option, field in options.model_fields.items():
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        table.add_row(option, escape(_type_of(field)), escape(default), escape(_plain(meanings.get(option, ""))))
    return table


def _parts_of(options: type[BaseModel]) -> list[type[BaseModel]]:
    """The kinds of options that are fields of ``options``, or of those, with fields of their own."""
    found = [inner for field in options.model_fields.values() for inner in models_in(field.annotation)]
    parts = [part for inner in found if inner.model_fields for part in (inner, *_parts_of(inner))]
    return list(dict.fromkeys(parts))


def _plain(text: str) -> str:
    """``text`` on one line, without backquotes."""
    return " ".join(text.replace("`", "").split())


def _type_of(field: FieldInfo) -> str:
    """The type as one would write it, with its bounds."""
    annotation: Any = field.annotation
    plain = isinstance(annotation, type) and not get_args(annotation)
    name = annotation.__name__ if plain else _MODULE.sub("", str(annotation))
    limits = [_LIMIT.sub(lambda found: f"{_SIGNS.get(found[1], found[1])} {found[2]}", str(m)) for m in field.metadata]
    return " ".join([name, ", ".join(limits)]).strip()


def _docstring(kind: Kind, name: str) -> str:
    """An item's docstring, read from its file: importing every item would take seconds."""
    point = offered(kind).get(name)
    spec = util.find_spec(point.module if point else f"bench.{kind}.{name}")
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
