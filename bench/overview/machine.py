"""What a machine has: Python, packages, devices, space and tools, each as one check with its fix."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from bench.errors import UserError

_OLDEST, _NEWEST = (3, 11), (3, 13)
_LEAST_GB = 5.0
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


class Check(NamedTuple):
    """One thing that was looked at; a warning does not stop anything."""

    level: Literal["well", "warning", "fault"]
    what: str
    fix: str = ""


def python_check(version: tuple[int, ...]) -> Check:
    """The version of Python."""
    right = _OLDEST <= tuple(version) <= _NEWEST
    fix = "make PYTHON=python3.12 ..., with a Python from 3.11 to 3.13"
    return Check("well" if right else "fault", f"Python {version[0]}.{version[1]}", "" if right else fix)


def packages_check(lock: Path) -> Check:
    """Installed packages against the lock file, and whether everything needed is installed."""
    installed = {_normal(found.name): found.version for found in metadata.distributions()}
    needed = [re.split(r"[^\w.-]", line)[0] for line in metadata.requires("vlm-robust-bench") or ()]
    missing = sorted(name for name in needed if _normal(name) not in installed)
    fix = f"pip install --require-hashes -r {lock}" if lock.exists() else "pip install --editable ."
    if missing:
        return Check("fault", f"packages missing: {', '.join(missing)}", fix)
    if not lock.exists():
        return Check(
            "warning", f"packages: {lock} is missing, so versions are not known to be right", f"git checkout {lock}"
        )
    locked = dict[str, set[str]]()
    for name, version in _LOCKED.findall(lock.read_text("utf-8")):
        locked.setdefault(_normal(name), set()).add(version)
    other = {name: versions for name, versions in locked.items() if installed.get(name, "") not in {"", *versions}}
    if other:
        told = ", ".join(
            f"{name} {installed[name]} (locked: {' or '.join(sorted(other[name]))})" for name in sorted(other)
        )
        return Check("warning", f"packages differ from {lock}: {told}", fix)
    return Check("well", f"packages as in {lock}")


def space_check(what: str, free_gb: float, fix: str) -> Check:
    """Free disk or memory."""
    enough = free_gb >= _LEAST_GB
    told = f"{free_gb:.1f} GB of {what} free"
    return Check("well", told) if enough else Check("warning", f"{told}, {_LEAST_GB:.0f} GB are advised", fix)


def device_check() -> Check:
    """Accelerators, and threads on the processor."""
    try:
        import torch

        from bench.device import compute_device
    except ImportError as error:
        return Check("fault", f"torch cannot be imported: {error}", "pip install --require-hashes -r requirements.lock")
    try:
        device = compute_device()
    except UserError as error:
        return Check("fault", str(error), "unset BENCH_DEVICE, and the best device that is here is taken")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    told = f"device: {', '.join(names) or 'processor only'}; computes on {device}; {threads} threads on {cores} cores"
    return Check("well", told) if threads <= cores else Check("warning", told, f"export OMP_NUM_THREADS={cores}")


def tool_checks(root: Path) -> Iterator[Check]:
    """Git, DVC and the command itself, which pipelines call by name."""
    try:
        asked = ["git", "-C", str(root), "rev-parse", "--is-inside-work-tree"]
        inside = subprocess.run(asked, capture_output=True, check=False, timeout=30).returncode == 0
        fix = "git init (results name the commit that made them)"
        yield Check("well", "git repository") if inside else Check("fault", "not a git repository", fix)
    except (OSError, subprocess.TimeoutExpired):
        yield Check("fault", "git is missing", "install git")
    hidden = [tool for tool in ("dvc", "bench") if shutil.which(tool) is None]
    if hidden:
        yield Check("fault", f"not on the PATH: {', '.join(hidden)}", "source .venv/bin/activate")
    made = (root / ".dvc").is_dir()
    yield Check("well", "DVC initialised") if made else Check("fault", "DVC is not initialised here", "dvc init")


def free_memory_gb() -> float:
    """Memory that programs can still have; all of it where the system does not say what is free."""
    info = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", info.read_text()) if info.exists() else None
    return int(found[1]) / 2**20 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
