"""Published robust weights: fetched, verified, converted once, and only under their own architecture."""

import pickle
from pathlib import Path

import pytest
import torch

from bench.clip import robust
from bench.clip.model import Base, build, load
from bench.clip.robust import ROBUST, Published, robust_weights
from bench.datasets.archives.source import File
from bench.errors import UserError
from bench.files import sha256_of


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab's mirror with the weights of a mini CLIP in place of FARE's; the working folder is empty."""
    path = tmp_path / "lab/fare2-clip/open_clip_pytorch_model.bin"
    path.parent.mkdir(parents=True)
    torch.save(build("mini", seed=7).model.state_dict(), path)
    monkeypatch.setenv("BENCH_MIRROR", str(tmp_path / "lab"))
    monkeypatch.setitem(robust.ROBUST, "fare2", Published("mini", File(path.name, sha256=sha256_of(path))))
    monkeypatch.chdir(tmp_path)
    return path


def test_the_published_weights_are_the_ones_that_the_model_has(lab: Path) -> None:
    clip, expected = load(Base(architecture="mini", weights="fare2")), build("mini", seed=7).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in clip.model.state_dict().items())
    (converted,) = Path("data/archives/fare2-clip").glob("*.safetensors")
    before = converted.stat().st_mtime_ns
    assert robust_weights("fare2", "mini") == converted
    assert converted.stat().st_mtime_ns == before


def test_another_architecture_is_refused_before_any_download(lab: Path) -> None:
    with pytest.raises(UserError, match="'fare2' belong to architecture 'mini', not 'ViT-B-32'"):
        load(Base(architecture="ViT-B-32", weights="fare2"))
    assert not Path("data").exists()


def test_a_changed_file_is_refused(lab: Path) -> None:
    lab.write_bytes(lab.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="wrong checksum"):
        robust_weights("fare2", "mini")


def test_a_pickle_that_would_run_something_runs_nothing(lab: Path, tmp_path: Path, monkeypatch) -> None:
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "owned",)

    lab.write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))
    monkeypatch.setitem(robust.ROBUST, "fare2", Published("mini", File(lab.name)))
    with pytest.raises(UserError, match="is not a file of weights"):
        robust_weights("fare2", "mini")
    assert not (tmp_path / "owned").exists()
    assert not list(Path("data").rglob("*.safetensors"))


def test_all_need_quickgelu() -> None:
    assert {published.architecture for published in ROBUST.values()} == {"ViT-L-14-quickgelu"}
