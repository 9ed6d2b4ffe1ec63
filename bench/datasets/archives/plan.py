"""``bench fetch --dry-run``: what would be downloaded from where, what is here, and what needs a person."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from bench.datasets.archives.orders import Order, use_mirror
from bench.datasets.archives.receive import explain, read_receipt, sources_of
from bench.datasets.archives.source import Source, place_of

_UNITS = ("B", "kB", "MB", "GB")


class Line(NamedTuple):
    """One file of the plan."""

    name: str
    size: str
    state: str
    address: str


def show_plan(orders: Sequence[Order], data: Path, mirror: str, out: Console | None = None) -> None:
    """Print the plan of every order, and at the end what a person has to do."""
    use_mirror(mirror)
    out, steps, missing = out or Console(), list[str](), dict[Path, int]()

    def say(text: str) -> None:
        out.print(escape(text), highlight=False, soft_wrap=True)

    for order in orders:
        if not hasattr(order.module, "source"):
            say(f"{order.name}: made here, nothing to download")
            continue
        source: Source = order.module.source(order.options)
        folder = data / "archives" / source.folder
        fetched = ", fetched" if (data / "manifests" / f"{order.name}.json").exists() else ""
        passing_on = "may be passed on" if source.redistribution else "may not be passed on"
        say(f"{order.name}{fetched}: {source.origin}; {source.licence}; {passing_on}")
        for line in lines_of(source, folder):
            say(f"  {line.name:<40} {line.size:>9}  {line.state:<14} {line.address}")
        absent = [file for file in source.files if not place_of(folder, file.name).exists()]
        missing |= {folder / file.name: file.size or file.about for file in absent}
        steps += [explain(file, folder) for file in absent if not sources_of(file, folder.name)]
    unknown = sum(not size for size in missing.values())
    say(f"\nTo get: {len(missing)} files, {_readable(sum(missing.values()))} and {unknown} of unknown size")
    if steps:
        say("\nA person is needed for:")
        for step in dict.fromkeys(steps):
            say(step)


def lines_of(source: Source, folder: Path) -> Iterator[Line]:
    """The files of a dataset, long series of shards as their first and last."""
    files = source.files
    shown = files if len(files) <= 12 else (*files[:2], *files[-1:])
    for file in shown:
        path, receipt = place_of(folder, file.name), read_receipt(folder, file.name)
        size = path.stat().st_size if path.is_file() else file.size or file.about
        addresses = sources_of(file, folder.name)
        if path.is_dir():
            state = "here, unpacked"
        elif path.exists():
            state = "here, verified" if receipt and receipt.fits(path) else "here, unchecked"
        else:
            state = "download" if addresses else "by hand"
        yield Line(file.name, _readable(size), state, " or ".join(addresses) or f"-> {folder}/")
    if len(shown) < len(files):
        yield Line(f"... {len(files)} files in all", "", "", "")


def _readable(size: int) -> str:
    if not size:
        return "?"
    amount, unit = float(size), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}"
