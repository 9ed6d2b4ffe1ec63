"""Captioned images as a stream: packed, resumed, and never all in memory."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from bench.datasets import cc3m
from bench.datasets.archives.lines import Lines, write_lines
from bench.datasets.archives.pairs import Pair, write_pairs
from bench.datasets.store import build, open_split
from bench.errors import UserError
from tests.datasets.archives.packing import picture

OPTIONS = cc3m.Options(size=8)


def stream(count: int = 30) -> list[Pair]:
    return [
        Pair(f"{row}.jpg", f"caption  {row}\n", lambda row=row: b"" if row % 7 == 3 else picture(row))
        for row in range(count)
    ]


def table(folder: Path, suffix: str = ".csv", columns: str = "image,caption") -> Path:
    (folder / "images").mkdir()
    lines = [columns]
    for row in range(6):
        if row != 2:
            (folder / f"images/{row}.png").write_bytes(picture(row, kind="PNG"))
        lines.append(f'images/{row}.png,"a dog, {row}"')
    (folder / f"pairs{suffix}").write_text(
        "\n".join(line.replace(",", "\t", 1) if suffix == ".tsv" else line for line in lines)
    )
    return folder / f"pairs{suffix}"


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_as_cleanclip_writes_it(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = cc3m.Options(size=8, table=str(table(tmp_path, suffix)), pairs=5)
    manifest = build("cc3m", options, cc3m.fetch, tmp_path / "data")
    split = open_split(tmp_path / "data", manifest, "train")
    assert list(split.captions) == [f"a dog, {row}" for row in (0, 1, 3, 4, 5)]
    assert list(split.names)[2] == "images/3.png"
    assert split.images.shape == (5, 3, 8, 8)
    assert manifest.description.left_out == 1
    assert "1 of 6 pairs left out" in " ".join(capsys.readouterr().err.split())
    assert np.load(tmp_path / "data/cc3m/train.images.npy").shape == (5, 3, 8, 8)


def test_a_missing_column_or_table_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, columns="filepath,title")
    with pytest.raises(UserError, match=r"no column 'image' .*filepath.*; set image_column"):
        build("cc3m", cc3m.Options(size=8, table=str(path)), cc3m.fetch, tmp_path / "data")
    fitting = cc3m.Options(size=8, table=str(path), pairs=3, image_column="filepath", caption_column="title")
    assert build("cc3m", fitting, cc3m.fetch, tmp_path / "data").splits["train"].count == 3
    with pytest.raises(UserError, match=r"no\.csv is missing"):
        build("cc3m", cc3m.Options(table="no.csv"), cc3m.fetch, tmp_path / "data")


def test_images_none_of_which_can_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of 3 images"):
        write_pairs(tmp_path, [pair._replace(read=lambda: b"") for pair in stream(3)], 10, OPTIONS)


def test_the_stream_is_read_no_further_than_needed(tmp_path: Path) -> None:
    def endless():
        while True:
            yield from stream(3)

    assert write_pairs(tmp_path, endless(), 5, OPTIONS).rows == 5


@pytest.mark.parametrize("at", [1, 9, 17, 29])
def test_a_stream_that_broke_off_ends_in_the_same_files(tmp_path: Path, at: int, monkeypatch) -> None:
    monkeypatch.setattr("bench.datasets.archives.pairs._EVERY", 4)

    def breaking():
        yield from islice(stream(), at)
        raise ConnectionError("broke off")

    with pytest.raises(ConnectionError):
        write_pairs(tmp_path / "broken", breaking(), 100, OPTIONS)
    assert write_pairs(tmp_path / "broken", stream(), 100, OPTIONS) == write_pairs(
        tmp_path / "whole", stream(), 100, OPTIONS
    )
    for name in ("train.images.npy", "train.captions.txt", "train.names.txt"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_damaged_array_is_made_anew(tmp_path: Path) -> None:
    first = write_pairs(tmp_path / "out", stream(5), 9, OPTIONS)
    path = tmp_path / "out/train.images.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert write_pairs(tmp_path / "out", stream(5), 9, OPTIONS) == first
    assert path.read_bytes() == content


def test_names_and_captions_stay_on_their_lines(tmp_path: Path) -> None:
    pairs = [pair._replace(name=f"a\n{pair.name}", caption="x\r\ny\x85z") for pair in stream(3)]
    write_pairs(tmp_path, pairs, 9, OPTIONS)
    assert list(Lines(tmp_path / "train.names.txt")) == [f"a {row}.jpg" for row in range(3)]
    assert list(Lines(tmp_path / "train.captions.txt")) == ["x y z"] * 3


def test_lines_are_a_sequence(tmp_path: Path) -> None:
    texts = ["one", "", "drei Äpfel", "four  five\nsix"]
    assert write_lines(tmp_path / "x.txt", texts) == 4
    lines = Lines(tmp_path / "x.txt")
    assert list(lines) == ["one", "", "drei Äpfel", "four five six"]
    assert (lines[-1], lines[1:3], len(lines)) == ("four five six", ["", "drei Äpfel"], 4)
    with pytest.raises(IndexError):
        lines[4]
    write_lines(tmp_path / "empty.txt", [])
    assert list(Lines(tmp_path / "empty.txt")) == []


_MANY = """
import resource, sys
from pathlib import Path
from bench.datasets import cc3m
from bench.datasets.archives import pairs
from bench.datasets.archives.lines import Lines
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
start = peak()
folder = Path(sys.argv[1])
import numpy as np
# The images are not what is measured: the same pixel for each of half a million rows, and no threads to make it.
pairs.decoder = lambda options: lambda name, content: PIXELS
pairs.in_parallel = lambda work, jobs: (work(*job) for job in jobs)
Path.read_bytes = lambda path: b""
PIXELS = np.ones((3, 1, 1), np.uint8)
options = cc3m.Options(size=1, table=str(folder / "pairs.csv"))
state = pairs.write_pairs(folder / "out", cc3m.read_table(options), 500_000, options)
captions = Lines(folder / "out" / pairs.CAPTIONS)
assert (state.rows, len(captions), captions[499_999][-7:]) == (500_000, 500_000, " 499999"), state
print(peak() - start)
"""


@pytest.mark.slow
def test_half_a_million_pairs_need_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "pairs.csv").open("w") as file:
        file.write("image,caption\n")
        for row in range(500_000):
            file.write(f"x.jpg,a photograph of some thing or other in front of a house and a tree {row}\n")
    run = subprocess.run(
        [sys.executable, "-c", _MANY, str(tmp_path)], capture_output=True, text=True, check=True, timeout=600
    )
    assert int(run.stdout) < 300, f"{run.stdout} MB on top of the libraries"
