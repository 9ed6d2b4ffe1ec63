"""Large vision-language models by name: each is a folder beside this file with an ``architecture.json``.

A model of our own has ``vocabulary.txt``, the words of its tokenizer, and ``weights.safetensors`` with ``card.json``,
which are what ``shipped`` stands for. A published one has the name of its repository instead. Light: what reads a suite
needs it without torch.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from bench.config import Options

Family = Literal["llava", "qwen3_vl"]
Level = Literal["projector", "lora", "full"]
WEIGHTS = "weights.safetensors"


class Decoder(Options):
    """Sizes of a decoder.

    Attributes:
        layers: Its blocks.
        width: Of its tokens.
        hidden: Of its MLPs, which have three matrices.
        heads: Of the queries.
        key_heads: Of keys and values.
        head: Width of a head.
        words: Of its vocabulary; they go in and come out by matrices of their own.
    """

    layers: int
    width: int
    hidden: int
    heads: int
    key_heads: int
    head: int
    words: int


class Published(Options):
    """Sizes of a published model, from its configuration, for what reckons without it.

    Attributes:
        image_layers: Blocks of the image tower.
        image_width: Of its tokens.
        image_hidden: Of its MLPs, which have two matrices.
        image_patches: Its tokens.
        adapter: Numbers between tower and decoder.
        image_tokens: Places that an image takes in the decoder.
        decoder: The decoder's.
    """

    image_layers: int
    image_width: int
    image_hidden: int
    image_patches: int
    adapter: int
    image_tokens: int
    decoder: Decoder


class Architecture(Options):
    """The content of ``architecture.json``.

    Attributes:
        family: Which of transformers' model classes it is, and with that the form of its prompts.
        tower: The small CLIP whose image tower it sees with; empty for a published model.
        vision: transformers' configuration of the image tower, where no small CLIP says it.
        text: transformers' configuration of the decoder; the size of the vocabulary is that of ``words``.
        words: Folder that holds the vocabulary; the architecture's own if empty.
        clip: Architecture and weights of the CLIP whose image tower a published model sees with, where it is one's.
        hub: Repository of the published model. ``vision`` and ``text`` are then those of a shrunken one with random
            weights, on which all code can be tried; with images of the published size, triggers fit too.
        image_size: Side of the images in pixels, for a published model that takes any.
        published: Sizes of the published model.
    """

    family: Family
    tower: str = ""
    vision: dict[str, Any] = Field(default_factory=dict[str, Any])
    text: dict[str, Any]
    words: str = ""
    clip: dict[str, str] = Field(default_factory=dict[str, str])
    hub: str = ""
    image_size: int = 0
    published: Published | None = None


def lvlm_architectures() -> list[str]:
    """Ids of the large vision-language models."""
    return sorted(path.parent.name for path in home().glob("*/architecture.json"))


def read_architecture(name: str) -> Architecture:
    """What a model is built from."""
    return Architecture(**json.loads((home() / name / "architecture.json").read_text("utf-8")))


def shipped_weights(name: str) -> Path | None:
    """The weights that ship with a model of our own; None if there are none."""
    path = home() / name / WEIGHTS
    return path if path.exists() else None


def vocabulary(folder: str) -> list[str]:
    """The words of a model of our own, in the order of their ids."""
    return (home() / folder / "vocabulary.txt").read_text("utf-8").split()


def home() -> Path:
    """The folder that holds the architectures."""
    return Path(str(resources.files("bench.lvlm")))
