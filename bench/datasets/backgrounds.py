"""Which of the 6 backgrounds the object stands on: a task over the rendered world."""

from pathlib import Path

from bench.datasets import world
from bench.datasets.store import Description
from bench.datasets.world_task import Options, fetch_task

__all__ = ["Options", "fetch"]


def fetch(options: Options, folder: Path) -> Description:
    """Render all splits into ``folder``."""
    return fetch_task(
        options,
        folder,
        world.BACKGROUNDS,
        "a photo of an object on a {} background.",
        lambda label, scene: scene._replace(background=label),
    )
