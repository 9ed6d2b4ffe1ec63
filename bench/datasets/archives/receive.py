"""Files that are complete and verified, or absent: several sources in order, one lock per file, a receipt beside each.

A file with a published checksum must have it. Any other is pinned to the checksum of its first use, which the receipt
``.<file>.json`` keeps even when the file itself is deleted.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.config import Options
from bench.datasets.archives.download import Advance, SourceError, download
from bench.datasets.archives.meter import Meter
from bench.datasets.archives.source import File, place_of
from bench.errors import UserError
from bench.files import locked, writable, write_text
from bench.progress import console

MIRROR = "BENCH_MIRROR"
_PARALLEL = 4


class Receipt(Options):
    """What was received, so that a large file is hashed once and not at every run."""

    size: int
    sha256: str
    mtime_ns: int
    url: str

    def fits(self, path: Path) -> bool:
        """Whether the file has not been touched since."""
        state = path.stat()
        return (self.size, self.mtime_ns) == (state.st_size, state.st_mtime_ns)


def receive(files: Sequence[File], folder: Path, pins: dict[str, str]) -> dict[str, Receipt]:
    """Get all ``files`` into ``folder``, several at a time; what is there and verified is left alone.

    Args:
        files: What to get.
        folder: ``data/archives/<dataset>``.
        pins: SHA-256 to accept beside the published checksum, by file name; alone where none is published.

    Returns:
        Receipts by file name; where an unpacked folder is in a file's place, of the names and sizes in it.

    Raises:
        UserError: Files could not be had, or are not what they should be; names all of them and what to do.
    """
    faults, receipts = list[str](), dict[str, Receipt]()
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with Meter(folder.name) as meter, ThreadPoolExecutor(_PARALLEL) as pool:
            jobs = [(file, pool.submit(_receive, file, folder, pins.get(file.name, ""), meter)) for file in files]
            for file, job in jobs:
                try:
                    receipts[file.name] = job.result()
                except UserError as error:
                    faults.append(str(error))
                except BaseException:
                    meter.stop()
                    raise
    if faults:
        raise UserError("\n".join(faults))
    return receipts


def sources_of(file: File, dataset: str) -> list[str]:
    """Addresses of a file in the order in which they are tried: the lab's own mirror, then the published ones."""
    mirror = os.environ.get(MIRROR, "").removeprefix("file://").rstrip("/")
    return [*([f"{mirror}/{dataset}/{file.name}"] if mirror else []), *file.urls]


def read_receipt(folder: Path, name: str) -> Receipt | None:
    """The receipt of a file; None if there is none that can be read."""
    try:
        return Receipt.model_validate_json((folder / f".{name}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _receive(file: File, folder: Path, pin: str, meter: Meter) -> Receipt:
    path = place_of(folder, file.name)
    if path.is_dir():
        return _unpacked(path)
    with locked(folder / f".{file.name}.lock"):
        before = read_receipt(folder, file.name)
        if path.exists():
            if before and before.fits(path) and pin in ("", before.sha256):
                return before
            return _accept(path, path, file, pin, before, str(path))
        faults = list[str]()
        for url in sources_of(file, folder.name):
            try:
                with meter.of(file.name) as advance:
                    return _fetch(url, path, file, pin, before, advance)
            except (SourceError, UserError) as error:
                faults.append(str(error))
    raise UserError(explain(file, folder, faults))


def _fetch(url: str, path: Path, file: File, pin: str, before: Receipt | None, advance: Advance) -> Receipt:
    """Download from one address, verify and move into place; a resumed part that is wrong is fetched anew once."""
    part, origin = path.with_name(f".{file.name}.part"), path.with_name(f".{file.name}.part.url")
    same = origin.exists() and origin.read_text("utf-8") == url
    if not same and not (pin or file.sha256 or file.md5):
        part.unlink(missing_ok=True)  # without a checksum, parts of two addresses must not be joined
    origin.write_text(url, "utf-8")
    resumed = part.exists()
    try:
        download(url, part, 0 if pin else file.size, advance)
        receipt = _accept(part, path, file, pin, before, url)
    except UserError:
        part.unlink(missing_ok=True)
        if not resumed:
            raise
        return _fetch(url, path, file, pin, before, advance)
    for note in path.parent.glob(f"{part.name}.*"):
        note.unlink()
    return receipt


def _accept(found: Path, path: Path, file: File, pin: str, before: Receipt | None, where: str) -> Receipt:
    """Verify ``found``, move it to ``path`` and write its receipt."""
    fix = f"; delete {path} and fetch again" if found == path else ""
    with found.open("rb") as stream:
        if stream.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise UserError(f"{where} is an HTML page instead of {file.name}{fix}")
    size = found.stat().st_size
    if not pin and file.size and size != file.size:
        raise UserError(f"{where} has {size} bytes instead of {file.size}{fix}")
    md5, sha256 = _digests(found, with_md5=bool(file.md5))
    first_use = before.sha256 if before and not (pin or file.md5) else ""
    known = file.sha256 or first_use
    as_published = known in ("", sha256) and md5 == file.md5 and bool(known or md5 or not pin)
    if sha256 != pin and not as_published:
        wanted = f"sha256 {pin or known}" if pin or known else f"md5 {file.md5}"
        raise UserError(
            f"{where} has the wrong checksum: sha256 {sha256}{f', md5 {md5}' if md5 else ''} instead of {wanted}{fix} "
            "(the dataset's option 'pins' accepts another copy)"
        )
    if found != path:
        found.replace(path)
    receipt = Receipt(size=size, sha256=sha256, mtime_ns=path.stat().st_mtime_ns, url=where)
    write_text(path.with_name(f".{file.name}.json"), receipt.model_dump_json() + "\n")
    return receipt


def _unpacked(path: Path) -> Receipt:
    """What can be said of a folder that somebody unpacked: which files are in it, and how large they are."""
    console.print(f"{path}: used as it was unpacked; its files are counted, not verified", highlight=False)
    sizes = sorted(
        (file.relative_to(path).as_posix(), file.stat().st_size) for file in path.rglob("*") if file.is_file()
    )
    listing = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
    return Receipt(size=sum(size for _, size in sizes), sha256=listing, mtime_ns=0, url=str(path))


def _digests(path: Path, with_md5: bool) -> tuple[str, str]:
    """MD5 (empty unless asked for) and SHA-256, in one pass."""
    sums = [hashlib.sha256(), *([hashlib.md5(usedforsecurity=False)] if with_md5 else [])]
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for digest in sums:
                digest.update(block)
    return (sums[1].hexdigest() if with_md5 else ""), sums[0].hexdigest()


def explain(file: File, folder: Path, faults: Sequence[str] = ()) -> str:
    """What a person has to do to get a file that no address serves."""
    checksum = next((f"{kind} {value}" for kind in ("sha256", "md5") if (value := getattr(file, kind))), "")
    facts = ", ".join(filter(None, [f"{file.size:,} bytes" if file.size else "", checksum]))
    tried = "".join(f"\n  tried {fault}" for fault in faults)
    steps = [file.manual or "get the file from its publisher or from a colleague"]
    steps.append(f"put {file.name}{f' ({facts})' if facts else ''} into {folder}/")
    steps.append("run the same `bench fetch` again: the file is verified before it is used")
    numbered = "".join(f"\n  {number}. {step}" for number, step in enumerate(steps, 1))
    problem = "could not be downloaded" if faults else "no address serves it unattended"
    return (
        f"{folder / file.name} is missing, and {problem}:{tried}{numbered}\n"
        f"  or: name a server or folder that has {folder.name}/{file.name} with --mirror or {MIRROR}"
    )
