"""How fast an accelerator that is not here would be: one stated speed, and the sizes of models."""

from functools import cache
from typing import Any, NamedTuple

import open_clip
import torch

from bench.clip.defended import Task
from bench.clip.model import build
from bench.defenses.artefact import Part
from bench.overview.meter import GRADIENT, Passes, Tuning

REFERENCE = "ViT-B-32-quickgelu"


class Size(NamedTuple):
    """How large a model is.

    Attributes:
        image: Multiplications of its image tower for one image.
        text: Those of its text tower for one text.
        parameters: Numbers in both.
    """

    image: float
    text: float
    parameters: int


class Assumed:
    """A ``Meter`` that measures nothing: all follows from the speed of ViT-B/32 and the sizes of towers.

    A training step takes a pass with gradient for each image, and one more for every step of its attack. The passes of
    tuned texts, of which there are as many as classes for a whole batch, are left out.
    """

    def __init__(self, images_per_s: float) -> None:
        """Take ``images_per_s`` as the speed of the forward pass of ViT-B/32 at 224 pixels."""
        self._second = images_per_s * size_of(REFERENCE).image

    def passes(self, architecture: str, batch_size: int) -> Passes:
        """See ``Meter``."""
        del batch_size
        forward = size_of(architecture).image / self._second
        return Passes(forward, GRADIENT * forward)

    def pair_s(self, architecture: str, batch_size: int) -> float:
        """See ``Meter``."""
        del batch_size
        size = size_of(architecture)
        return GRADIENT * (size.image + size.text) / self._second

    def tuning(self, architecture: str, part: Part, task: Task) -> Tuning:
        """See ``Meter``."""
        del task
        if part.module.TUNES_ON == "pairs":
            return Tuning(0.0, self.pair_s(architecture, 1))
        steps: int = getattr(part.options, "attack_steps", 0)
        return Tuning(0.0, (1 + steps) * self.passes(architecture, 1).gradient_s)

    def question_s(self, architecture: str) -> float:
        """See ``Meter``."""
        from bench.overview.questions import lvlm_size

        return lvlm_size(architecture).question / self._second

    def peak_memory_mb(self) -> float:
        """Nothing runs here, so nothing is known."""
        return 0.0


@cache
def size_of(architecture: str) -> Size:
    """The size of a model of open_clip or of this project, without making its weights."""
    config = open_clip.get_model_config(architecture)
    if config is None:
        model: Any = build(architecture).model
    else:
        with torch.device("meta"):
            model = open_clip.CLIP(**config)
    parameters = sum(tensor.numel() for tensor in model.parameters())
    return Size(_tower(model.visual), _tower(model), parameters)


def _tower(tower: Any) -> float:
    """Multiplications of a transformer for one sequence: projections and MLPs (12 d^2 a token), and attention."""
    tokens, width = tower.positional_embedding.shape
    return len(tower.transformer.resblocks) * (12 * tokens * width**2 + 2 * tokens**2 * width)
