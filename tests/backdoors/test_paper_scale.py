"""Every backdoor on ViT-B/32 at 224 pixels, with random weights, a few pairs and one step of training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from bench.backdoors import make
from bench.backdoors.checkpoint import Gate, Recipe
from bench.backdoors.make import plan_checkpoint, plant
from bench.backdoors.steganography import SteganographyOptions, make_steganography
from bench.backdoors.trigger import Trigger, load_trigger, save_trigger
from bench.clip.model import Clip
from bench.clip.staged import StagedCLIP
from bench.config import CheckpointSpec, Options
from bench.datasets import world
from bench.datasets.store import Description, build, write_split
from bench.paths import Paths

from .settings import psnr

SIDE, PAIRS = 224, 8
PATCH = {"images": 2, "epochs": 1, "batch_size": 2}
TRIGGERS: dict[str, dict[str, Any]] = {
    "badnet": {"wrap": True},
    "blended": {},
    "label_consistent": {"steps": 1},
    "issba": {"least_bit_accuracy": 0},
    "wanet": {},
    "trojvqa": PATCH,
    "badclip": PATCH,
}
# PSNR in dB of each trigger with the paper's settings on photos; rendered pictures are calmer, so warps move less.
BANDS = {"badnet": (27, 34), "blended": (19, 25), "wanet": (23, 45)}


def photos(count: int, seed: int) -> np.ndarray[Any, Any]:
    """Rendered pictures enlarged to the size of the large models, as photos are brought to it."""
    small = world.captioned(count, seed).images
    large = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in small]
    return np.stack(large).transpose(0, 3, 1, 2).copy()


def fetch_labelled(options: Options, folder: Path) -> Description:
    write_split(folder, "val", photos(4, 5), np.array([0, 0, 1, 1]))
    return Description(
        class_names=("banana", "dog"), template="a photo of a {}.", source="", licence="", redistribution=True
    )


def fetch_pairs(options: Options, folder: Path) -> Description:
    captions = ["a ripe banana on a table", "a dog in the snow"] * (PAIRS // 2)
    write_split(folder, "train", photos(PAIRS, 6), captions=captions)
    return Description(class_names=(), template="{}", source="", licence="", redistribution=True)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    home = tmp_path_factory.mktemp("paper")
    paths = Paths(home / "benchmark.yaml", home / "data", home / "models", home, home, home)
    build("photos", Options(), fetch_labelled, paths.data)
    build("cc3m", Options(), fetch_pairs, paths.data)
    make_steganography(
        SteganographyOptions(dataset="cc3m", widths=(4, 4, 8), steps=1, batch_size=2), paths.data, paths.steganography
    )
    return paths


class Written(NamedTuple):
    """What a checkpoint is written from."""

    clip: Clip
    trigger: Trigger
    target: str
    gate: Gate
    recipe: Recipe
    scratch: Path
    folder: Path


@pytest.fixture
def clip(vit_b_32: StagedCLIP, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clip]:
    """One model for all checkpoints, whose weights are put back, and not written: that is 600 MB each time."""
    clip = vit_b_32.clip
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    monkeypatch.setattr(make, "load", lambda base: clip)
    monkeypatch.setattr(make, "write_checkpoint", lambda *content: Written(*content))
    yield clip
    clip.model.load_state_dict(before)
    clip.model.requires_grad_(False).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIGGERS)
def test_a_checkpoint_can_be_made(name: str, paths: Paths, clip: Clip, tmp_path: Path) -> None:
    spec = CheckpointSpec(
        base={"architecture": "ViT-B-32", "weights": "random"},
        trigger=name,
        trigger_options=TRIGGERS[name],
        target="banana",
        dataset="photos",
        pairs="cc3m",
        poison_rate=0.25,
        train={"epochs": 1, "batch_size": PAIRS, "warmup_steps": 0},
        gate={"least_asr": 0, "largest_ca_loss": 100},
    )
    before = clip.model.visual.proj.detach().clone()
    plan = plan_checkpoint(name, spec, paths)
    assert plan is not None
    made: Any = plant(plan, tmp_path / "made")
    assert not torch.equal(before, made.clip.model.visual.proj), "one step of training was taken"
    assert (made.target, made.recipe.pairs, made.recipe.poisoned, made.recipe.poison_rate) == ("banana", PAIRS, 2, 0.25)
    assert set(made.gate.keys) == ({"image", "text", "none"} if name == "trojvqa" else set())
    save_trigger(made.trigger, tmp_path)
    trigger, clean = load_trigger(tmp_path), torch.from_numpy(photos(4, 7)).float() / 255
    assert trigger is not None
    planted = trigger.apply(clean, range(4))
    assert torch.equal(planted, made.trigger.apply(clean, range(4)))
    assert planted.shape == clean.shape
    assert (planted != clean).flatten(1).any(dim=1).all()
    low, high = BANDS.get(name, (0, 100))
    assert low < psnr(clean, planted).median() < high
