"""The papers' scale: R-Adapt's analyses, whole, with ViT-B/32 and ViT-L/14 of random weights on images of 224 px."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from bench.analyses.contract import Source
from bench.analyses.subjects import models
from bench.analyses.subjects.towers import copy_of
from bench.backdoors.checkpoint import Checkpoint
from bench.clip.defended import DefendedCLIP
from bench.clip.model import build as build_clip
from bench.clip.staged import StagedCLIP
from bench.config import Options, Suite
from bench.datasets.store import Description, build, write_split
from bench.items import item_options, load_item
from tests.analyses.conftest import CLEAN, TUNED, paths_below

# One process takes them all, one after the other: two ViT-L/14 and their mixture are five gigabytes.
pytestmark = pytest.mark.xdist_group("large")
PGD = {"attack": "pgd"}
PHOTOS = {"dataset": "photos"}
ANALYSES: dict[str, dict[str, Any]] = {
    "attention": PHOTOS | {"models": {"tuned": TUNED}, "block": "first"},
    "cka": PHOTOS | {"standard": CLEAN, "models": {"tuned": TUNED}},
    "heads": PHOTOS | {"images": 1, "standard": CLEAN, "robust": TUNED, "attack": PGD, "orders": 2},
    "insensitivity": PHOTOS | {"images": 2, "models": {"clean": CLEAN, "tuned": TUNED}},
    "replacement": {
        "panels": {"photos": PHOTOS | {"images": 1}},
        "standard": CLEAN,
        "models": {"tuned": TUNED},
        "attacks": {"PGD": PGD},
        "modules": ["Emb."],
    },
    "retrieval": PHOTOS
    | {"images": 1, "models": {"tuned": TUNED}, "conditions": {"eps=4/255": [{"attack": "captions_grey"}]}},
    "spectrum": PHOTOS | {"images": 1, "standard": CLEAN, "models": {"tuned": TUNED}, "attacks": {"PGD": PGD}},
}
VALUES = {"attention": "weight", "cka": "cka", "insensitivity": "cosine", "spectrum": "shift"}


class Size(NamedTuple):
    """What the architecture says about the frames."""

    blocks: int
    heads: int
    patches: int
    kernel: int

    def lines(self, analysis: str) -> int:
        return {
            "attention": 224 + 1 + self.patches,
            "cka": self.blocks**2,
            # The image's lines of pixels, and a map for each head.
            "heads": self.heads + 2 + 224 + self.heads * self.patches,
            "insensitivity": 8,
            "replacement": 3,
            "retrieval": 3,
            "spectrum": self.kernel**2 + 224**2,
        }[analysis]


SIZES = {"ViT-B-32": Size(12, 12, 49, 32), "ViT-L-14": Size(24, 16, 256, 14)}


def fetch(options: Options, folder: Path) -> Description:
    """Three noisy images with a label and five captions each."""
    del options
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 224, 224), np.uint8)
    captions = [f"a photo number {row} of a {name}" for name in ("cat", "dog", "bird") for row in range(5)]
    write_split(folder, "test", pixels, np.arange(3), captions, np.repeat(np.arange(3), 5))
    return Description(
        class_names=("cat", "dog", "bird"), template="a photo of a {}.", source="", licence="", redistribution=True
    )


@pytest.fixture(scope="module", params=SIZES)
def pair(request: pytest.FixtureRequest) -> dict[str, DefendedCLIP]:
    """A CLIP, and the same with noise in its embedding and its first block."""
    clip = build_clip(request.param)
    clip.model.requires_grad_(False)
    clean = DefendedCLIP(StagedCLIP(clip))
    tuned, stream = copy_of(clean), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in tuned.staged.visual.state_dict().items():
            if "resblocks.0." in name or "conv1" in name:
                tensor += 0.02 * torch.randn(tensor.shape, generator=stream)
    return {"clean": clean, "tuned": tuned}


@pytest.fixture
def source(pair: dict[str, DefendedCLIP], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A suite whose checkpoints are not read from disk, where each would take half a gigabyte."""
    base = {"architecture": pair["clean"].staged.clip.architecture, "weights": "random"}
    attack = {"options": {"steps": 1}}
    suite = Suite.model_validate(
        {
            "protocol": {"version": 1, "batch_size": 2, "seeds": [1], "shots": 1},
            "datasets": {"photos": {}},
            "checkpoints": {name: {"base": base, "trigger": "none"} for name in pair},
            "attacks": {
                "pgd": attack | {"threat_model": "white_box"},
                "captions_grey": attack | {"threat_model": "grey_box", "method": "caption_pgd"},
            },
            "tracks": {
                "robust": {
                    "checkpoints": list(pair),
                    "datasets": ["photos"],
                    "attacks": ["pgd"],
                    "defenses": {"none": {}},
                }
            },
            "tables": {},
        }
    )
    paths = paths_below(tmp_path)
    build("photos", Options(), fetch, paths.data)
    card: Any = SimpleNamespace(gate=None)

    def opened(folder: Path, parts: object, checkpoint: Checkpoint) -> tuple[Any, DefendedCLIP]:
        del parts, checkpoint
        return SimpleNamespace(template=""), pair[folder.parent.name]

    monkeypatch.setattr(
        models, "load_checkpoint", lambda folder: Checkpoint(card, pair[folder.name].staged.clip, None, "")
    )
    monkeypatch.setattr(models, "load_artefact", opened)
    return Source(suite, paths, "figure")


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYSES)
def test_the_whole_analysis(name: str, source: Source, pair: dict[str, DefendedCLIP]) -> None:
    if name == "heads" and pair["clean"].staged.clip.architecture == "ViT-L-14":
        pytest.skip("its 32 coalitions take over a minute")
    module = load_item("analyses", name, "here")
    options = item_options(module, ANALYSES[name], "here")
    frame = module.measure(source, options)
    assert len(frame) == SIZES[pair["clean"].staged.clip.architecture].lines(name)
    numbers = frame[VALUES.get(name, "value")]
    # Only the lines of the image that is shown have no number.
    shown = frame["part"] == "image" if "part" in frame else numbers.isna()
    assert np.isfinite(numbers[~shown]).all()
    assert numbers.nunique() > 1 or name in ("replacement", "retrieval"), "few images have few accuracies"
