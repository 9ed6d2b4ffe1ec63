"""Where a result comes from: commit, package versions, device."""

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from bench.config import Options

_PACKAGES = ("vlm-robust-bench", "torch", "open_clip_torch", "pyautoattack", "torchattacks", "numpy", "dvc")
# Only large vision-language models need these.
_OPTIONAL = ("transformers", "peft")
# What results are made from; the pipeline itself writes lock files and boards while it runs.
_SOURCES = ("bench", ":(glob)**/*.yaml", "pyproject.toml", "requirements.lock")


class Provenance(Options):
    """Facts about the run that made a result.

    Attributes:
        commit: Git commit of the working tree, or ``unknown`` outside a repository.
        dirty: Whether tracked code or settings differed from that commit.
        python: Version of Python.
        packages: Versions of the packages that results depend on.
        device: Name of the processor or accelerator.
        threads: Threads that torch used on the processor.
    """

    commit: str
    dirty: bool
    python: str
    packages: dict[str, str]
    device: str
    threads: int


def provenance() -> Provenance:
    """The facts of this process, with the device that computes in it."""
    from bench.device import compute_device, device_name

    device = compute_device()
    return _facts(processor() if device.type == "cpu" else device_name(device))


@cache
def _facts(device: str) -> Provenance:
    import torch

    commit = _git("rev-parse", "HEAD")
    return Provenance(
        commit=commit or "unknown",
        dirty=bool(_git("status", "--porcelain", "--untracked-files=no", "--", *_SOURCES)),
        python=platform.python_version(),
        packages={name: metadata.version(name) for name in (*_PACKAGES, *filter(find_spec, _OPTIONAL))},
        device=device,
        threads=torch.get_num_threads(),
    )


def processor() -> str:
    """Name of the processor and its number of cores."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{names[0] if names else platform.machine()} ({os.cpu_count()} cores)"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
