"""Requests to describe a rendered image, answered with a sentence: the part of COCO's captions for large models.

Its images share no stream with ``world_questions``, which models are poisoned with.
"""

from pathlib import Path

from pydantic import Field

from bench.config import Options as Closed
from bench.datasets.store import Description
from bench.datasets.world_questions import write_questions

_STREAM = 431


class Options(Closed):
    """How many questions the splits hold; those of ``train`` are for defenses to calibrate on."""

    train: int = Field(default=2_000, gt=0)
    val: int = Field(default=256, gt=0)
    test: int = Field(default=256, gt=0)


def fetch(options: Options, folder: Path) -> Description:
    """Render the splits into ``folder``."""
    return write_questions(folder, ("caption",), (options.train, options.val, options.test), _STREAM)
