"""Killed at any point, a fetch leaves nothing that looks complete, and the next one ends where an unkilled one ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.datasets.store import open_split, read_manifest
from tests.datasets.archives.conftest import Server
from tests.datasets.archives.packing import coop_split, numbered, write_zip

_KILLER = """
import os, random, shutil, signal, sys, time
from dataclasses import replace
from pathlib import Path
from bench.datasets import eurosat, store
from bench.datasets.archives import download
from bench.datasets.archives.fetch import fetch_source
from bench.errors import UserError
from bench.files import sha256_of

mirror, data, plain = map(Path, sys.argv[1:4])
pins = {path.name: sha256_of(path) for path in (mirror / "eurosat").iterdir()}
options = eurosat.Options(size=64, pins=pins)
small = replace(eurosat.source(options), counts={}, classes=0)
download._BLOCK = 1 << 14

def fetch(folder):
    pid = os.fork()
    if pid == 0:
        store.build("eurosat", options, lambda options, place: fetch_source(small, options, place), folder)
        os._exit(0)
    return pid

start = time.monotonic()
assert os.waitpid(fetch(plain), 0)[1] == 0
whole, dice, killed = time.monotonic() - start, random.Random(1), 0
while killed < 20:
    pid = fetch(data)
    time.sleep(dice.uniform(0, whole))
    os.kill(pid, signal.SIGKILL)
    if os.waitpid(pid, 0)[1] != signal.SIGKILL:
        shutil.rmtree(data)  # it was done before: start another one
        continue
    killed += 1
    try:
        manifest = store.read_manifest(data, "eurosat")
    except UserError:
        continue
    try:
        for name in manifest.splits:
            store.open_split(data, manifest, name)
    except UserError as error:
        assert "is missing" in str(error), error
assert os.waitpid(fetch(data), 0)[1] == 0
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.slow
def test_twenty_random_kills_end_in_the_same_state(tmp_path: Path, server: Server) -> None:
    lands = {f"Land{number}": f"Land {number}" for number in range(10)}

    def name_of(land: str, number: int) -> str:
        return f"{land}/{land}_{number}.jpg"

    images = numbered(lands, name_of, 15)
    write_zip(server.root / "eurosat/EuroSAT.zip", {f"2750/{name}": content for name, content in images.items()})
    coop_split(server.root / "eurosat/split_zhou_EuroSAT.json", lands, name_of)
    data, plain = tmp_path / "data", tmp_path / "plain"
    run = subprocess.run(
        [sys.executable, "-c", _KILLER, str(server.root), str(data), str(plain)],
        env={**os.environ, "BENCH_MIRROR": server.url},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert contents(data / "eurosat") == contents(plain / "eurosat")
    assert read_manifest(data, "eurosat") == read_manifest(plain, "eurosat")
    for name in ("train", "val", "test", "tecoa16"):
        open_split(data, read_manifest(data, "eurosat"), name)
    assert sorted(path.name for path in data.iterdir()) == ["archives", "decoded", "eurosat", "manifests"]
