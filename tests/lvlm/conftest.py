"""Small models that the tests of this room share; session fixtures are read-only."""

import pytest
import torch

from bench.datasets.world_questions import Question, questions


@pytest.fixture(scope="session")
def lvlm():
    """mini_llava with random weights behind the mini CLIP's trained image tower."""
    from bench.lvlm.loading import build, with_tower

    made = with_tower(build("mini_llava"))
    made.model.requires_grad_(False)
    return made


@pytest.fixture(scope="session")
def asked() -> list[Question]:
    """Two questions of each kind."""
    return questions(14, 31)


@pytest.fixture(scope="session")
def images(asked: list[Question]) -> torch.Tensor:
    """Their images."""
    return torch.stack([torch.from_numpy(one.image).permute(2, 0, 1).float() / 255 for one in asked])
