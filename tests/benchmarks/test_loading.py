"""Decoded images against torchvision's ImageFolder and DataLoader, on the same real photos in the same run."""

import os
import tarfile
import time
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor

from bench.datasets.archives.fetch import write_rows
from bench.datasets.archives.pixels import fill
from bench.datasets.archives.source import ArchiveOptions, Member, Rows
from bench.datasets.store import Description, build, open_split

ARCHIVE = Path(__file__).resolve().parents[3] / "shared" / "data" / "mirror" / "caltech101" / "caltech-101.zip"
PHOTOS, BATCH = 1_024, 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photos, unpacked as ImageFolder wants them."""
    if not ARCHIVE.exists():
        pytest.skip(f"{ARCHIVE} is not there")
    place = tmp_path_factory.mktemp("photos")
    with (
        zipfile.ZipFile(ARCHIVE) as outer,
        outer.open("caltech-101/101_ObjectCategories.tar.gz") as inner,
        tarfile.open(fileobj=inner, mode="r|gz") as archive,
    ):
        for info in islice((info for info in archive if info.name.endswith(".jpg")), 0, 8 * PHOTOS, 8):
            archive.extract(info, place, filter="data")
    return place / "101_ObjectCategories"


def test_loading_over_imagefolder(folder: Path, tmp_path: Path, capsys, benchmark) -> None:
    photos = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    names = sorted({name.partition("/")[0] for name in photos})
    rows = Rows(photos, [names.index(name.partition("/")[0]) for name in photos])

    def fetch(options: ArchiveOptions, place: Path) -> Description:
        images = (Member(name, (folder / name).read_bytes) for name in photos)
        fill(place, {"test": rows}, images, options)
        write_rows(place, "test", rows)
        return Description(class_names=tuple(names), template="{}", source="", licence="", redistribution=False)

    start = time.perf_counter()
    manifest = build("photos", ArchiveOptions(), fetch, tmp_path)
    decoding = time.perf_counter() - start
    split = open_split(tmp_path, manifest, "test")
    clip = Compose([Resize(224, InterpolationMode.BICUBIC), CenterCrop(224), ToTensor()])
    plain = DataLoader(ImageFolder(str(folder), clip), BATCH, num_workers=os.cpu_count() or 1)

    def epoch() -> Iterator[torch.Tensor]:
        for first in range(0, len(photos), BATCH):
            yield split.batch(slice(first, first + BATCH))

    assert all(torch.equal(ours, theirs) for ours, (theirs, _) in zip(epoch(), plain, strict=True)), "the same pixels"
    start = time.perf_counter()
    for _ in plain:
        pass
    theirs = len(photos) / (time.perf_counter() - start)
    benchmark.pedantic(lambda: [None for _ in epoch()], rounds=3, warmup_rounds=1)
    ours = len(photos) / benchmark.stats.stats.median
    benchmark.extra_info["ratio"] = ours / theirs
    with capsys.disabled():
        print(
            f"\n{len(photos)} photos at 224: {ours:,.0f} images/s once decoded (in {decoding:.1f} s); "
            f"ImageFolder + DataLoader ({os.cpu_count()} workers) {theirs:,.0f} images/s; ratio {ours / theirs:.1f}"
        )
    assert ours > 5 * theirs
