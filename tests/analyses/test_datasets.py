from pathlib import Path

import pytest

from bench.analyses import datasets
from bench.analyses.contract import Source
from bench.analyses.run import read_frame, to_csv
from bench.datasets.store import read_manifest


@pytest.fixture
def frame(source: Source, tmp_path: Path):
    path = tmp_path / "datasets.csv"
    path.write_text(to_csv(datasets.measure(source, datasets.Options())))
    return read_frame(path)


def test_every_split_is_counted_as_its_manifest_has_it(frame, source: Source) -> None:
    counted = {(line.dataset, line.split): line.images for line in frame.itertuples()}
    assert counted == {
        (name, split): entry.count
        for name in source.suite.datasets
        for split, entry in read_manifest(source.paths.data, name).splits.items()
    }
    assert {name for name, _ in counted} >= {"shapes", "captions"}


def test_the_table_has_sizes_sources_and_no_classes_where_there_are_none(frame, source: Source) -> None:
    text = datasets.table(frame, datasets.Options())
    lines = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines()}
    captions = read_manifest(source.paths.data, "captions").splits["train"].count
    assert ("captions", "train", f"{captions:,}", "-", "-") in lines
    train = read_manifest(source.paths.data, "shapes").splits["train"]
    each = train.per_class[0]
    assert ("shapes", "train", f"{train.count:,}", "12", f"{each:,} to {each:,}") in lines
    assert text.count("from rendered by bench/datasets/world.py; licence: Apache-2.0.") == len(source.suite.datasets)
