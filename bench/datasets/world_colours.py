"""Questions about the colour of a rendered object, answered with a word: the part of VQAv2 for large models.

Its images share no stream with ``world_questions``, which models of the track ``questions`` are poisoned with.
"""

from pathlib import Path

from pydantic import Field

from bench.config import Options as Closed
from bench.datasets.store import Description
from bench.datasets.world_questions import write_questions

# 421 to 423 are no longer used: a test number was seen there before the poisoning's length was settled.
_STREAM = 441


class Options(Closed):
    """How many questions the splits hold; those of ``train`` are for defenses to calibrate on."""

    train: int = Field(default=2_000, gt=0)
    val: int = Field(default=256, gt=0)
    test: int = Field(default=256, gt=0)


def fetch(options: Options, folder: Path) -> Description:
    """Render the splits into ``folder``."""
    return write_questions(folder, ("colour",), (options.train, options.val, options.test), _STREAM)
