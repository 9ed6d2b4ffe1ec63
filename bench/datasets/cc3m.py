"""Conceptual Captions 3M: photos from the web with their captions, to poison and to fine-tune on.

The published addresses are mostly dead, so no two crawls agree. The default is a frozen copy, ``pixparse/cc3m-wds`` at
one commit (crawled in 2021): its first 100 shards hold about the 500,000 pairs that CleanCLIP and RVPT train with. A
crawl of your own goes in as ``table``: CSV or TSV with one image path and caption per line, as CleanCLIP writes it.
Pairs whose image is missing or damaged are left out, and counted.
"""

import csv
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pydantic import Field

from bench.datasets.archives import pairs as pair_stream
from bench.datasets.archives.fetch import cache_key, describe, link
from bench.datasets.archives.pairs import Pair, State, write_pairs
from bench.datasets.archives.receive import receive
from bench.datasets.archives.shards import samples
from bench.datasets.archives.source import ArchiveOptions, File, Opened, Source
from bench.datasets.store import Description
from bench.errors import UserError
from bench.files import locked, sha256_of
from bench.progress import console

_COPY = "https://huggingface.co/datasets/pixparse/cc3m-wds/resolve/46f3d69f840e59d77d52e8decfe5baec97e94c7f"
_SHARDS = 576


class Options(ArchiveOptions):
    """How much of it, and from where.

    Attributes:
        pairs: At most so many.
        shards: The first so many of the frozen copy's 576 shards.
        table: CSV or TSV file of your own images, instead of the frozen copy. Paths are relative to its folder.
        image_column: Name of the column with the paths; open_clip calls it ``filepath``.
        caption_column: Name of the column with the captions; open_clip calls it ``title``.
    """

    pairs: int = Field(default=500_000, gt=0)
    shards: int = Field(default=100, gt=0, le=_SHARDS)
    table: str = ""
    image_column: str = "image"
    caption_column: str = "caption"


def source(options: Options) -> Source:
    """The shards that the options ask for; none where a table takes their place."""
    names = [f"cc3m-train-{number:04d}.tar" for number in range(0 if options.table else options.shards)]
    return Source(
        folder="cc3m",
        files=tuple(File(name, (f"{_COPY}/{name}",), about=450_000_000) for name in names),
        origin=options.table or "https://huggingface.co/datasets/pixparse/cc3m-wds",
        licence="annotations free to use; images belong to their owners",
        redistribution=False,
    )


def fetch(options: Options, folder: Path) -> Description:
    """Write the pairs into ``folder``, as one split ``train``."""
    published, data = source(options), folder.parent
    if options.table:
        hashes, stream = {"table": _hash(Path(options.table))}, read_table(options)
    else:
        archives = data / "archives" / published.folder
        receipts = receive(published.files, archives, options.pins)
        hashes = {name: receipt.sha256 for name, receipt in sorted(receipts.items())}
        stream = _read_shards(Opened(archives, {file.name: file for file in published.files}))
    decoded = data / "decoded" / f"cc3m-{cache_key(options, hashes, {})}"
    with locked(decoded.with_name(f".{decoded.name}.lock")):
        state = write_pairs(decoded, stream, options.pairs, options)
        link(decoded / pair_stream.IMAGES, folder / pair_stream.IMAGES)
        for name in (pair_stream.CAPTIONS, pair_stream.NAMES):
            shutil.copyfile(decoded / name, folder / name)
    _report(state, decoded)
    return describe(published, {}, hashes, {}).model_copy(update={"left_out": state.left_out})


def read_table(options: Options) -> Iterator[Pair]:
    """The pairs of a CSV or TSV file, line by line.

    Raises:
        UserError: The file or a column is missing.
    """
    path = Path(options.table)
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        columns = (options.image_column, options.caption_column)
        if absent := [column for column in columns if column not in (lines.fieldnames or ())]:
            raise UserError(
                f"{path}: no column '{absent[0]}' in its first line, which has {lines.fieldnames}; "
                "set image_column and caption_column"
            )
        for line in lines:
            name = line[options.image_column] or ""
            yield Pair(name, line[options.caption_column] or "", (path.parent / name).read_bytes)


def _read_shards(opened: Opened) -> Iterator[Pair]:
    for sample in samples(opened, list(opened.files), "txt"):
        yield Pair(sample.key, sample.text, partial(_image, sample.image))


def _image(content: bytes | None) -> bytes:
    if content is None:
        raise OSError("the sample has no image")
    return content


def _hash(table: Path) -> str:
    if not table.is_file():
        raise UserError(f"datasets.cc3m.table: {table} is missing")
    return sha256_of(table)


def _report(state: State, decoded: Path) -> None:
    if state.left_out:
        lost = f"cc3m: {state.left_out} of {state.seen} pairs left out, their images are missing or damaged"
        again = f"to try them again, delete {decoded}"
        console.print(
            f"{lost}, first: {', '.join(state.first)}; {again}", highlight=False, markup=False, soft_wrap=True
        )
