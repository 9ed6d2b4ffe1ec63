"""Which of the 12 shapes an image shows: a task over the rendered world."""

from pathlib import Path

from bench.datasets import world
from bench.datasets.store import Description
from bench.datasets.world_task import Options, fetch_task

__all__ = ["Options", "fetch"]


def fetch(options: Options, folder: Path) -> Description:
    """Render all splits into ``folder``."""
    return fetch_task(
        options, folder, world.SHAPES, "a photo of a {}.", lambda label, scene: scene._replace(shape=label)
    )
