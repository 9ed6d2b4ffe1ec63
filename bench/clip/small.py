"""Small CLIPs of our own, at 32x32 pixels: each is a folder beside this file with an ``architecture.json``.

The folder may hold ``vocabulary.txt``, the words of its tokenizer (another folder's are used if the architecture names
it under ``words``), and ``weights.safetensors`` with ``card.json``, which are then what ``shipped`` stands for. Light:
what reads a suite needs it without torch.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from bench.config import Options

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class Architecture(Options):
    """The content of ``architecture.json``.

    Attributes:
        embed_dim: Width of the space that images and texts share.
        vision: open_clip's configuration of the image tower.
        text: open_clip's configuration of the text tower; the size of the vocabulary is that of ``words``.
        words: Folder that holds the vocabulary.
    """

    embed_dim: int
    vision: dict[str, Any]
    text: dict[str, Any]
    words: str


def small_architectures() -> list[str]:
    """Ids of the small CLIPs."""
    return sorted(path.parent.name for path in _home().glob("*/architecture.json"))


def shipped_weights(architecture: str) -> Path | None:
    """The weights that ship with a small CLIP; None if there are none."""
    path = _home() / architecture / "weights.safetensors"
    return path if path.exists() else None


def vocabulary(folder: str = "mini") -> list[str]:
    """The words of a small CLIP, in the order of their ids."""
    return (_home() / folder / "vocabulary.txt").read_text("utf-8").split()


def read_architecture(name: str) -> Architecture:
    """What a small CLIP is built from."""
    return Architecture(**json.loads((_home() / name / "architecture.json").read_text("utf-8")))


def _home() -> Path:
    return Path(str(resources.files("bench.clip")))
