"""A large vision-language model in transformers' classes, with what it needs to be used; ``loading.py`` makes one.

Images enter as everywhere: float32 in [0,1] at the model's resolution; normalisation and the image's places in the
prompt are the model's business.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.device import device_of


@dataclass(frozen=True)
class Lvlm:
    """A model with what it needs to be used.

    Attributes:
        architecture: Its id.
        family: The module of its family, such as ``bench.lvlm.llava``.
        model: In transformers' class, in evaluation mode.
        tokenizer: In transformers' class.
        image_size: Side of the images in pixels.
        mean: Of the pixels, per channel.
        std: Of the pixels, per channel.
    """

    architecture: str
    family: Any
    model: Any
    tokenizer: Any
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_tokens(self) -> int:
        """Places that one image takes in the decoder."""
        return self.family.image_tokens(self.model.config, self.image_size)

    @property
    def image_token_id(self) -> int:
        """Id of the image's places."""
        return self.tokenizer.convert_tokens_to_ids(self.family.IMAGE)

    @property
    def layers(self) -> Any:
        """The decoder's blocks."""
        return self.family.decoder(self.model).layers

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return device_of(self.model)

    def inputs(self, images: Tensor, ids: Tensor | None = None) -> dict[str, Tensor]:
        """What the model takes for images ``(n, 3, h, w)`` in [0,1], wherever these are; other sizes are resized.

        Args:
            images: One for each prompt.
            ids: The prompts; not needed where the image tower is run alone.
        """
        images, size = images.to(self.device), (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return self.family.inputs(self.model.config, (images - mean) / std, ids)
