"""A victim that notes down what its image tower is asked for."""

from dataclasses import dataclass, field

import pytest
import torch

from bench.clip.defended import DefendedCLIP
from bench.clip.model import Base, load
from bench.clip.staged import StagedCLIP


@dataclass(frozen=True)
class Recording(DefendedCLIP):
    """Notes which model (edits of this victim share the notes) embedded which images."""

    log: list[tuple[DefendedCLIP, torch.Tensor]] = field(default_factory=list, compare=False)

    def image(self, images, trace=None):
        self.log.append((self, images.detach().clone()))
        return super().image(images, trace)


@pytest.fixture(scope="session")
def shipped() -> DefendedCLIP:
    """The mini CLIP with its shipped weights, without any defense. Read-only: its weights are frozen."""
    clip = load(Base(architecture="mini", weights="shipped"))
    clip.model.requires_grad_(False)
    return DefendedCLIP(StagedCLIP(clip))


@pytest.fixture
def recording(mini) -> Recording:
    """The mini CLIP without any defense, recording."""
    return Recording(mini)
