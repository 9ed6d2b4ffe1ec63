"""What ``bench fetch`` is asked for: datasets with their options, one after the other."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench.config import Options, Suite
from bench.datasets.archives.receive import MIRROR
from bench.datasets.store import Manifest, build
from bench.errors import UserError
from bench.items import item_ids, item_options, load_item

_ALL = "all"


class Order(NamedTuple):
    """A dataset file with its options."""

    name: str
    module: Any
    options: Options


def orders_of(name: str, suite: Suite, options: str, where: str) -> list[Order]:
    """The dataset ``name``, or every dataset there is for ``all``.

    Args:
        name: Id of a dataset, whether the suite uses it or not.
        suite: Has the options of the datasets that it uses; others have their defaults.
        options: YAML mapping of options that go over those.
        where: The suite's file.

    Raises:
        UserError: There is no such dataset or option.
    """
    given = _mapping(options)
    orders = list[Order]()
    for dataset in item_ids("datasets") if name == _ALL else (name,):
        module = load_item("datasets", dataset, f"{where}: datasets")
        content = {**suite.datasets.get(dataset, {}), **given}
        orders.append(Order(dataset, module, item_options(module, content, f"{where}: datasets.{dataset}")))
    return orders


def fetch_orders(orders: Sequence[Order], data: Path, mirror: str) -> Iterator[tuple[str, Manifest]]:
    """Fetch all orders; one that fails does not keep the others from being fetched.

    Raises:
        UserError: At the end, with the messages of all that failed.
    """
    use_mirror(mirror)
    faults = list[str]()
    for order in orders:
        try:
            yield order.name, build(order.name, order.options, order.module.fetch, data)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))


def use_mirror(mirror: str) -> None:
    """Ask ``mirror`` first from here on."""
    if mirror:
        os.environ[MIRROR] = mirror


def _mapping(options: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(options) if options else {}
    except yaml.YAMLError as error:
        raise UserError(f"--options is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"--options must be a mapping such as '{{size: 336}}', not {options!r}")
    return content
