"""Small models and data that several test folders share. Session fixtures are read-only: their weights are frozen."""

import os
from collections.abc import Iterator

import pytest
import torch

from bench.clip.defended import DefendedCLIP, Task
from bench.clip.model import build
from bench.clip.staged import StagedCLIP
from bench.datasets import world
from bench.defenses.contract import Labelled, Pairs

# The tests themselves run side by side already.
os.environ.setdefault("BENCH_PROCESSES", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def seeded() -> Iterator[None]:
    """torch's global stream starts at seed 0 and is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def exact() -> Iterator[None]:
    """Without the fast path of multi-head attention, whose results differ by about 1e-6 from the normal one's."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.fixture(autouse=True, scope="session")
def _on_the_processor() -> Iterator[None]:
    """What tests expect is what the processor computes, also where there is an accelerator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DEVICE", "cpu")
        yield


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything computes on the pretended device, once it exists."""
    monkeypatch.setenv("BENCH_DEVICE", "pretend")


@pytest.fixture
def pretend(computing: None) -> Iterator[torch.device]:
    """The pretended device exists, and everything computes on it."""
    from tests.pretend_device import pretending

    with pretending() as device:
        yield device


@pytest.fixture(scope="session")
def mini() -> StagedCLIP:
    """The mini CLIP with random weights."""
    return _frozen("mini")


@pytest.fixture(scope="session")
def vit_b_32() -> StagedCLIP:
    """ViT-B/32 with random weights."""
    return _frozen("ViT-B-32")


@pytest.fixture
def victim(mini: StagedCLIP) -> DefendedCLIP:
    """The mini CLIP without any defense."""
    return DefendedCLIP(mini)


@pytest.fixture(scope="session")
def few() -> Labelled:
    """Eight images of four shapes, two of each."""
    names = ("circle", "square", "star", "ring")
    labels = torch.arange(8) % len(names)
    pixels = []
    for row, label in enumerate(labels.tolist()):
        dice = world.Dice(11, row)
        pixels.append(world.render(world.random_scene(dice)._replace(shape=world.SHAPES.index(names[label])), dice))
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in pixels])
    return Labelled(images, labels, Task(names, "a photo of a {}."))


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """Eight captioned images."""
    captioned = world.captioned(8, 12)
    return Pairs(torch.from_numpy(captioned.images).permute(0, 3, 1, 2).contiguous(), list(captioned.captions))


def _frozen(architecture: str) -> StagedCLIP:
    clip = build(architecture)
    clip.model.requires_grad_(False)
    return StagedCLIP(clip)
