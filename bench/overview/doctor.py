"""Whether this machine can run a suite: one line per check, and the fix beside each that fails."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from bench.clip.small import shipped_weights, small_architectures
from bench.config import Suite
from bench.files import sha256_of
from bench.lvlm.architecture import lvlm_architectures
from bench.lvlm.architecture import shipped_weights as shipped_lvlm
from bench.overview.machine import (
    Check,
    device_check,
    free_memory_gb,
    packages_check,
    python_check,
    space_check,
    tool_checks,
)
from bench.paths import DEFAULT_SUITE, Paths
from bench.progress import console

_MARKS = {"well": "[green]✓[/]", "warning": "[yellow]![/]", "fault": "[red]✗[/]"}


def doctor(suite: Suite, paths: Paths, out: Console = console) -> bool:
    """Print all checks.

    Returns:
        Whether all is well, warnings aside.
    """
    well = True
    for check in checks(suite, paths):
        fix = f"\n    {escape(check.fix)}" if check.fix else ""
        out.print(f"{_MARKS[check.level]} {escape(check.what)}{fix}", highlight=False, soft_wrap=True)
        well = well and check.level != "fault"
    return well


def checks(suite: Suite, paths: Paths) -> Iterator[Check]:
    """All checks, each made when it is asked for."""
    root = paths.data.parent
    yield python_check(sys.version_info[:2])
    yield packages_check(root / "requirements.lock")
    yield device_check()
    yield space_check("disk", shutil.disk_usage(root).free / 2**30, "free some space, or move data/ and .bench/")
    yield space_check("memory", free_memory_gb(), "close other programs, or lower batch sizes")
    shipped = [*map(shipped_weights, small_architectures()), *map(shipped_lvlm, lvlm_architectures())]
    for weights in filter(None, shipped):
        yield weights_check(weights.parent)
    for dataset in suite.datasets:
        yield dataset_check(dataset, paths)
    yield from tool_checks(root)


def weights_check(folder: Path) -> Check:
    """The shipped weights against the hash in their card."""
    weights, card = folder / "weights.safetensors", folder / "card.json"
    fix = f"git checkout -- {folder}, or train them anew: bench pretrain {folder.name}"
    absent = [path.name for path in (weights, card) if not path.exists()]
    if absent:
        return Check("fault", f"shipped weights: {' and '.join(absent)} missing in {folder}", fix)
    if sha256_of(weights) != (_json(card) or {}).get("sha256"):
        return Check("fault", f"shipped weights: {weights} is not the file that {card.name} describes", fix)
    return Check("well", f"shipped weights: {weights}")


def dataset_check(dataset: str, paths: Paths) -> Check:
    """A dataset's manifest and every file that it names."""
    option = "" if paths.suite == DEFAULT_SUITE else f" --suite {paths.suite}"
    fix, path = f"bench fetch {dataset}{option}", paths.data / "manifests" / f"{dataset}.json"
    if not path.exists():
        return Check("fault", f"dataset {dataset}: not fetched", fix)
    manifest = _json(path)
    if manifest is None or "splits" not in manifest:
        return Check("fault", f"dataset {dataset}: {path} is damaged", fix)
    files: dict[str, str] = {name: sha for split in manifest["splits"].values() for name, sha in split["files"].items()}
    places = {name: paths.data / dataset / name for name in files}
    missing = [name for name, place in places.items() if not place.exists()]
    differing = [name for name, place in places.items() if place.exists() and sha256_of(place) != files[name]]
    faults = [
        f"{kind}: {', '.join(names)}" for kind, names in (("missing", missing), ("differing", differing)) if names
    ]
    if faults:
        return Check("fault", f"dataset {dataset}: {'; '.join(faults)}", fix)
    return Check("well", f"dataset {dataset}: {len(files)} files as in its manifest")


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        return None
