"""The papers' scale: R-Adapt's analyses, whole, with ViT-B/32 of random weights on three images of 224 px."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.analyses import models
from bench.analyses.contract import Source
from bench.analyses.towers import copy_of
from bench.backdoors.checkpoint import Checkpoint
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import StagedCLIP
from bench.config import Options, Suite
from bench.datasets.store import Description, build, write_split
from bench.items import item_options, load_item
from tests.analyses.conftest import CLEAN, TUNED, paths_below

PGD = {"attack": "pgd"}
PHOTOS = {"dataset": "photos"}
ANALYSES: dict[str, dict[str, Any]] = {
    "cka": PHOTOS | {"standard": CLEAN, "models": {"tuned": TUNED}},
    "heads": PHOTOS | {"images": 1, "standard": CLEAN, "robust": TUNED, "attack": PGD, "orders": 2},
    "insensitivity": PHOTOS | {"models": {"clean": CLEAN, "tuned": TUNED}},
    "replacement": {
        "panels": {"photos": PHOTOS | {"images": 1}},
        "standard": CLEAN,
        "models": {"tuned": TUNED},
        "attacks": {"PGD": PGD},
        "modules": ["Emb."],
    },
    "retrieval": PHOTOS
    | {"images": 2, "models": {"tuned": TUNED}, "conditions": {"eps=4/255": [{"attack": "captions_grey"}]}},
    "spectrum": PHOTOS | {"images": 1, "standard": CLEAN, "models": {"tuned": TUNED}, "attacks": {"PGD": PGD}},
}
# Two random orders of twelve heads pass through 22 coalitions beside the two ends, or through fewer that they share.
LINES = {"cka": 144, "heads": 12 + 2 + 224 + 12 * 49, "insensitivity": 8, "replacement": 3, "retrieval": 3}


def fetch(options: Options, folder: Path) -> Description:
    """Three noisy images with a label and five captions each."""
    del options
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 224, 224), np.uint8)
    captions = [f"a photo number {row} of a {name}" for name in ("cat", "dog", "bird") for row in range(5)]
    write_split(folder, "test", pixels, np.arange(3), captions, np.repeat(np.arange(3), 5))
    return Description(
        class_names=("cat", "dog", "bird"), template="a photo of a {}.", source="", licence="", redistribution=True
    )


@pytest.fixture(scope="module")
def pair(vit_b_32: StagedCLIP) -> dict[str, DefendedCLIP]:
    clean = DefendedCLIP(vit_b_32)
    tuned, stream = copy_of(clean), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in tuned.staged.visual.state_dict().items():
            if "resblocks.0." in name or "conv1" in name:
                tensor += 0.02 * torch.randn(tensor.shape, generator=stream)
    return {"clean": clean, "tuned": tuned}


@pytest.fixture
def source(pair: dict[str, DefendedCLIP], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A suite whose checkpoints are not read from disk, where each would take half a gigabyte."""
    base = {"architecture": "ViT-B-32", "weights": "random"}
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


@pytest.mark.parametrize("name", ANALYSES)
def test_the_whole_analysis(name: str, source: Source) -> None:
    module = load_item("analyses", name, "here")
    options = item_options(module, ANALYSES[name], "here")
    frame = module.measure(source, options)
    assert len(frame) == LINES.get(name, 32 * 32 + 224 * 224)
    value = {"cka": "cka", "insensitivity": "cosine", "spectrum": "shift"}.get(name, "value")
    numbers = frame[value] if name != "heads" else frame.loc[frame["part"] != "image", value]
    assert np.isfinite(numbers).all()
    assert numbers.nunique() > 1 or name in ("replacement", "retrieval"), "few images have few accuracies"
