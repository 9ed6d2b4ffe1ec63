"""The one way from a published dataset to its arrays: receive, read, check, decode, describe.

``data/archives/<folder>`` keeps the archives, ``data/decoded/<folder>-<key>`` the decoded images of one choice of
archives, splits and transform; the dataset's own folder holds links to those, so going back to a choice costs nothing.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.datasets.archives import coop
from bench.datasets.archives.lines import write_lines
from bench.datasets.archives.pixels import fill
from bench.datasets.archives.receive import receive
from bench.datasets.archives.source import ArchiveOptions, Contents, Opened, Rows, Source
from bench.datasets.store import Description, Prompts
from bench.errors import UserError, unknown
from bench.files import locked, sha256_of, write_text

_COMPLETE = "complete.json"


def fetch_source(source: Source, options: ArchiveOptions, folder: Path) -> Description:
    """Fetch a dataset into ``folder``.

    Args:
        source: The dataset.
        options: How images are prepared.
        folder: A folder in ``data``, to be filled.

    Raises:
        UserError: A file could not be had, is not the published one, or does not hold what it should.
    """
    if source.read is None:
        raise TypeError(f"{source.folder} has no reader")
    data = folder.parent
    archives = data / "archives" / source.folder
    receipts = receive(source.files, archives, options.pins)
    contents = source.read(Opened(archives, {file.name: file for file in source.files}))
    check_contents(source, contents)
    contents = replace(contents, splits=_chosen(contents.splits, options, source.folder))
    hashes = {name: receipt.sha256 for name, receipt in sorted(receipts.items())}
    decoded = data / "decoded" / f"{source.folder}-{cache_key(options, hashes, contents.splits)}"
    with locked(decoded.with_name(f".{decoded.name}.lock")):
        same = _decode(decoded, contents, options)
        for name, rows in contents.splits.items():
            link(decoded / f"{same[name]}.images.npy", folder / f"{name}.images.npy")
            write_rows(folder, name, rows)
    coop_splits = contents.splits if contents.coop and "train" in contents.splits else {}
    return describe(source, contents.prompts, hashes, coop_splits)


def describe(
    source: Source, prompts: Mapping[str, Prompts], hashes: Mapping[str, str], coop_splits: Mapping[str, Rows]
) -> Description:
    """What the manifest says about the dataset; the first of ``prompts`` is its own."""
    own = next(iter(prompts.values()), Prompts(class_names=(), template="{}"))
    samples = coop.digests(coop_splits["train"].labels) if coop_splits else {}
    published = coop.published_digests(source.folder) if source.counts else {}
    if samples and published and samples != published:
        raise RuntimeError(f"{source.folder}: CoOp's few-shot samples come out differently on this Python")
    return Description(
        class_names=own.class_names,
        template=own.template,
        source=source.origin,
        licence=source.licence,
        redistribution=source.redistribution,
        prompts=dict(prompts),
        few_shot=samples,
        base_classes=coop.base_classes(len(own.class_names)) if coop_splits else 0,
        archives=dict(hashes),
    )


def write_rows(folder: Path, name: str, rows: Rows) -> None:
    """Write everything of a split but its images."""
    write_lines(folder / f"{name}.names.txt", rows.keys)
    if len(rows.labels):
        np.save(folder / f"{name}.labels.npy", np.asarray(rows.labels, np.int64))
    if len(rows.owners):
        np.save(folder / f"{name}.owners.npy", np.asarray(rows.owners, np.int64))
    for what, texts in (("captions", rows.captions), ("answers", rows.answers), ("swaps", rows.swaps)):
        if len(texts):
            write_lines(folder / f"{name}.{what}.txt", texts)


def check_contents(source: Source, contents: Contents) -> None:
    """The splits are as large as published, have every class, and CoOp's do not overlap.

    Raises:
        UserError: With all that differs.
    """
    faults = list[str]()
    counts = {name: len(rows.keys) for name, rows in contents.splits.items()}
    for name, count in source.counts.items():
        if counts.get(name, 0) != count:
            faults.append(f"split '{name}' has {counts.get(name, 0)} images instead of {count}")
    names = next((prompts.class_names for prompts in contents.prompts.values()), ())
    if source.classes and len(names) != source.classes:
        faults.append(f"it has {len(names)} classes instead of {source.classes}")
    for name, rows in contents.splits.items():
        absent = sorted(set(range(len(names))) - set(rows.labels)) if source.classes and len(rows.labels) else []
        if absent:
            faults.append(f"split '{name}' has no image of '{names[absent[0]]}' (of {len(absent)} classes in all)")
    if contents.coop:
        faults += coop.overlaps(contents.splits)
    if faults:
        where = f"data/archives/{source.folder}"
        raise UserError("\n".join(f"{where}: {fault}; are these the published files?" for fault in faults))


def _chosen(splits: Mapping[str, Rows], options: ArchiveOptions, dataset: str) -> dict[str, Rows]:
    """The splits that the options ask for."""
    for name in options.splits:
        if name not in splits:
            raise unknown("split", name, splits, f"datasets.{dataset}.splits")
    return {name: rows for name, rows in splits.items() if name in (options.splits or splits)}


def _decode(folder: Path, contents: Contents, options: ArchiveOptions) -> dict[str, str]:
    """Fill ``folder`` with the arrays, unless it holds them all and unchanged.

    Returns:
        The split whose array each split uses: its own, or that of an earlier one of the very same images.
    """
    first = dict[tuple[str, ...], str]()
    same = {name: first.setdefault(tuple(rows.keys), name) for name, rows in contents.splits.items()}
    complete, names = folder / _COMPLETE, [f"{name}.images.npy" for name in first.values()]
    if complete.exists():
        known: dict[str, str] = json.loads(complete.read_text("utf-8"))
        if all((folder / name).exists() and sha256_of(folder / name) == known.get(name) for name in names):
            return same
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fill(folder, {name: contents.splits[name] for name in first.values()}, contents.images, options)
    write_text(complete, json.dumps({name: sha256_of(folder / name) for name in names}))
    for marks in folder.glob("*.done.npy"):
        marks.unlink()
    return same


def cache_key(options: ArchiveOptions, hashes: Mapping[str, str], splits: Mapping[str, Rows]) -> str:
    """Hash of all that decides the decoded images."""
    keys = {name: hashlib.sha256("\n".join(rows.keys).encode()).hexdigest() for name, rows in splits.items()}
    content = [options.model_dump(mode="json", exclude={"pins", "splits"}), dict(hashes), keys]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def link(source: Path, target: Path) -> None:
    """A second name for ``source``, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
