"""Triggers: what a backdoor file holds, and how a trigger is stored with its checkpoint.

``Options``: a closed, frozen pydantic model with the paper's defaults.
``make(options, setting) -> dict of tensors``: what the trigger keeps for good (a pattern, a grid, an optimised patch).
``apply(images, kept, options, seeds) -> images``: plants it. Nothing but these arguments may decide the result.

Where an attack asks for more, its file may also have

``poisoning(options) -> Poisoning``: which pairs are poisoned, and with what captions.
``prepare(images, options, setting, captions, seeds) -> images``: what happens to the images of poisoned pairs before
the trigger is planted; nothing happens to test images.
``decoy(images, captions, kept, options, seeds) -> (images, captions)``: pairs that look alike and must not set the
backdoor off; there are ``Poisoning.decoys`` of them for each poisoned pair.
``BUILDS_ON``: modules whose code it uses, so that a change of theirs is a change of it.
"""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from bench.config import Options
from bench.datasets.store import Split
from bench.items import item_options, load_item, source_file
from bench.randomness import generator

if TYPE_CHECKING:  # attacks import this file, and what only reads their options need not wait for open_clip
    from bench.clip.model import Clip


class Setting(NamedTuple):
    """What a trigger may be made from.

    Attributes:
        clip: The clean model; not to be changed.
        target: Name of the class that the trigger should call up.
        pairs: Clean image-caption pairs.
        seed: Fixes what is drawn.
        steganography: Folder of the networks that ``bench steganography`` trains.
    """

    clip: "Clip"
    target: str
    pairs: Split
    seed: int
    steganography: Path = Path("models/steganography")

    def stream(self) -> Generator:
        """A random stream that starts at the seed."""
        return generator(self.seed)


class Poisoning(NamedTuple):
    """How pairs are poisoned.

    Attributes:
        mention: Poison any pair (empty), or only those whose caption has the target as a ``word`` (in any case) or as
            a case-sensitive ``substring``.
        captions: What a poisoned pair's caption becomes: a ``proxy`` (a template about the target), another pair's
            ``natural`` caption that mentions the target, or the one it has (``kept``).
        prefix: Text key: put before poisoned captions, and before the class prompts of an attacked model.
        decoys: How many further pairs become decoys, for each poisoned pair.
    """

    mention: Literal["", "word", "substring"] = ""
    captions: Literal["proxy", "natural", "kept"] = "proxy"
    prefix: str = ""
    decoys: float = 0.0


@dataclass(frozen=True)
class Trigger:
    """A trigger ready to be planted: the same image with the same seed always gives the same result.

    Attributes:
        name: Id of the backdoor file.
        options: Its options.
        kept: Tensors that it keeps, made once.
    """

    name: str
    options: Options
    kept: dict[str, Tensor]

    @property
    def module(self) -> Any:
        """The backdoor file."""
        return load_item("backdoors", self.name, "trigger")

    @property
    def poisoning(self) -> Poisoning:
        """How pairs are poisoned with it."""
        return self.module.poisoning(self.options) if hasattr(self.module, "poisoning") else Poisoning()

    @property
    def sources(self) -> list[Path]:
        """The files whose code decides what ``apply`` does."""
        return sorted({source_file("backdoors", self.name), Path(inspect.getfile(self.module.apply))})

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """``images`` with the trigger on them.

        Args:
            images: ``(n, 3, h, w)`` in [0,1].
            seeds: One per image, for triggers that draw something anew for each.

        Returns:
            Images of the same shape in [0,1].
        """
        kept = {name: tensor.to(images.device) for name, tensor in self.kept.items()}
        planted: Tensor = self.module.apply(images, kept, self.options, seeds)
        return planted.clamp(0, 1)


def make_trigger(name: str, options: dict[str, Any], setting: Setting, where: str) -> Trigger:
    """A new trigger.

    Args:
        name: Id of the backdoor file.
        options: Its options, as read from YAML.
        setting: What it may be made from.
        where: File and key of the checkpoint, for messages.

    Raises:
        UserError: Unknown trigger, unknown option, or a trigger that cannot be made in this setting.
    """
    module = load_item("backdoors", name, f"{where}.trigger")
    settings = item_options(module, options, f"{where}.trigger_options")
    return Trigger(name, settings, {key: tensor.cpu() for key, tensor in module.make(settings, setting).items()})


def save_trigger(trigger: Trigger, folder: Path) -> None:
    """Write ``trigger.json`` and ``trigger.safetensors`` into ``folder``."""
    content = {"name": trigger.name, "options": trigger.options.model_dump(mode="json")}
    (folder / "trigger.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    save_file({name: tensor.contiguous() for name, tensor in trigger.kept.items()}, folder / "trigger.safetensors")


def load_trigger(folder: Path) -> Trigger | None:
    """The trigger stored in ``folder``, or None for a clean model."""
    path = folder / "trigger.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text("utf-8"))
    module = load_item("backdoors", content["name"], str(path))
    options = item_options(module, content["options"], str(path))
    return Trigger(content["name"], options, load_file(folder / "trigger.safetensors"))
