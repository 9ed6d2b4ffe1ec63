"""Triggers: what a backdoor file holds, and how a trigger is stored with its checkpoint.

A backdoor file has ``Options`` (closed, frozen, the paper's defaults), ``draw(options, image_size, generator)``, which
makes what the trigger keeps for good (a pattern, a grid, a place), and ``apply(images, kept, options, seeds)``, which
plants it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.config import Options
from bench.items import item_options, load_item
from bench.randomness import generator


@dataclass(frozen=True)
class Trigger:
    """A trigger ready to be planted: the same image with the same seed always gives the same result.

    Attributes:
        name: Id of the backdoor file.
        options: Its options.
        kept: Tensors that it keeps, drawn once.
    """

    name: str
    options: Options
    kept: dict[str, Tensor]

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """``images`` with the trigger on them.

        Args:
            images: ``(n, 3, h, w)`` in [0,1].
            seeds: One per image, for triggers that draw something anew for each.

        Returns:
            Images of the same shape in [0,1].
        """
        kept = {name: tensor.to(images.device) for name, tensor in self.kept.items()}
        planted: Tensor = load_item("backdoors", self.name, "trigger").apply(images, kept, self.options, seeds)
        return planted.clamp(0, 1)


def draw_trigger(name: str, options: dict[str, Any], image_size: int, seed: int, where: str) -> Trigger:
    """A new trigger.

    Args:
        name: Id of the backdoor file.
        options: Its options, as read from YAML.
        image_size: Side of the images in pixels.
        seed: Fixes what is drawn.
        where: File and key of the checkpoint, for messages.

    Raises:
        UserError: Unknown trigger, unknown option, or a trigger that does not fit the image.
    """
    module = load_item("backdoors", name, f"{where}.trigger")
    settings = item_options(module, options, f"{where}.trigger_options")
    return Trigger(name, settings, module.draw(settings, image_size, generator(seed)))


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
