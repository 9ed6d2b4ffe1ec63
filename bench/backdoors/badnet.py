"""BadNet (Gu et al., 2017): a small square pasted on the image.

CleanCLIP's code draws fresh noise around the image's mean colour for each image and puts it in a random place;
``pattern: fresh`` with ``location: random`` is that. Its values are not clipped and wrap around when stored as bytes
(1.1 becomes 24/255), which makes the noise nearly uniform; here they are clipped, and ``wrap: true`` is the official
way. RVPT states 16 pixels at 224 and a random place, and no pattern.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.backdoors.trigger import Setting
from bench.config import Options as Closed
from bench.errors import UserError
from bench.randomness import generator


class Options(Closed):
    """RVPT's settings.

    Attributes:
        size: Side of the square in pixels.
        location: ``corner`` (bottom right, one pixel from the edge) or ``random`` (anew for each image).
        pattern: ``fixed`` (one black-and-white noise pattern for all images) or ``fresh`` (noise anew for each image).
        wrap: Let fresh noise outside [0,1] wrap around as bytes do, instead of clipping it.
    """

    size: int = Field(default=16, gt=0)
    location: Literal["corner", "random"] = "random"
    pattern: Literal["fixed", "fresh"] = "fresh"
    wrap: bool = False


def make(options: Options, setting: Setting) -> dict[str, Tensor]:
    """The fixed pattern, ``(3, size, size)`` of zeros and ones."""
    side, shape = setting.clip.image_size, (3, options.size, options.size)
    if options.size >= side:
        raise UserError(f"trigger: a patch of size {options.size} does not fit into an image of {side} pixels")
    return {"pattern": torch.randint(0, 2, shape, generator=setting.stream()).float()}


def apply(images: Tensor, kept: dict[str, Tensor], options: Options, seeds: Sequence[int]) -> Tensor:
    """Paste the square."""
    planted, room = images.clone(), images.shape[-1] - options.size
    for row, seed in enumerate(seeds):
        stream = generator(seed)
        top, left = torch.randint(0, room + 1, (2,), generator=stream).tolist()
        if options.location == "corner":
            top = left = room - 1
        square = kept["pattern"]
        if options.pattern == "fresh":
            noise = torch.randn(square.shape, generator=stream).to(images)
            square = images[row].mean(dim=(1, 2), keepdim=True) + noise
            square = (square * 255).trunc().remainder(256) / 255 if options.wrap else square.clamp(0, 1)
        planted[row, :, top : top + options.size, left : left + options.size] = square
    return planted
