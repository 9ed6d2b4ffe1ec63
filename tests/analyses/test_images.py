from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.analyses import images
from bench.analyses.contract import Source
from bench.analyses.run import read_frame, to_csv
from bench.config import load_suite
from bench.datasets.sampling import training_sample
from bench.datasets.store import open_split, read_manifest
from bench.leaderboard.records import committed_records
from bench.paths import paths_for

LEADERBOARDS = Path(__file__).resolve().parents[2] / "leaderboards"


@pytest.fixture
def frame(source: Source, tmp_path: Path) -> pd.DataFrame:
    path = tmp_path / "images.csv"
    path.write_text(to_csv(images.measure(source, images.Options())))
    return read_frame(path)


def test_every_tested_and_every_tuned_image_is_listed_once_for_each_use(frame: pd.DataFrame, source: Source) -> None:
    manifest = read_manifest(source.paths.data, "shapes")
    shots = source.suite.protocol.shots
    train, test = (open_split(source.paths.data, manifest, name) for name in ("train", "test"))
    shapes = frame[frame["dataset"] == "shapes"]
    tuned = shapes[shapes["use"] == f"tuning, {shots} shots, seed 1"]
    assert tuned["row"].tolist() == training_sample(manifest, train.labels, shots, 1).tolist()
    tested = shapes[(shapes["split"] == "test") & (shapes["use"] == "test")]
    assert tested["row"].tolist() == list(range(len(test.labels)))
    assert tested["class"].tolist() == [manifest.description.class_names[label] for label in test.labels]
    assert set(shapes["manifest"]) == {manifest.digest[: images.DIGITS]}
    assert not frame.duplicated(["dataset", "split", "use", "row"]).any()


def test_the_table_counts_them(frame: pd.DataFrame, source: Source) -> None:
    text = images.table(frame, images.Options())
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert sum(int(line[4].replace(",", "")) for line in lines) == len(frame)
    assert {line[5] for line in lines if line[0] == "shapes"} == {"12"}


@pytest.mark.parametrize("name", sorted(path.parent.name for path in LEADERBOARDS.glob("*/images.csv")))
def test_the_committed_index_is_the_one_that_the_committed_records_stand_on(name: str) -> None:
    suite, paths = load_suite(LEADERBOARDS / name / "benchmark.yaml"), paths_for(Path(f"leaderboards/{name}/b.yaml"))
    records = committed_records(suite, paths._replace(boards=LEADERBOARDS / name))
    index = read_frame(LEADERBOARDS / name / "images.csv")
    assert records
    for record in records.values():
        cell = record.identity.cell
        use = images.Use(cell.dataset, cell.split, size=record.identity.images).name
        found = index[(index["dataset"] == cell.dataset) & (index["split"] == cell.split) & (index["use"] == use)]
        assert set(found["manifest"]) == {record.identity.manifest[: images.DIGITS]}
        if record.outcome is not None:
            assert np.array_equal(found["row"], record.outcome.rows)
