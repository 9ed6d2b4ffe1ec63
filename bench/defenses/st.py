"""ST: the image is shrunk and put down at a random place, so that a trigger has another size and is elsewhere.

What is known of CleanSight's paper names an "ST defense" and says no more of it. The usual spatial transformation is
ShrinkPad, from "Backdoor Attack in the Physical World" (ICLR 2021 workshop), as in its authors' BackdoorBox: the image
is made smaller by some pixels, and black is added around it, by chance more on one side or the other. That paper also
mirrors images, and others rotate them; both are options here, and off: they make questions about left and right wrong.
Where an image goes is drawn from a stream of its own that starts from its pixels.
"""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Generator, Tensor
from torchvision.transforms.functional import InterpolationMode, hflip, resize, rotate

from bench.config import Options as Closed
from bench.defenses.contract import Tensors, TunesOn
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.questions import Questions
from bench.randomness import content_seeds, generator

TUNES_ON: TunesOn = "nothing"
DEFENDS = "lvlm"


class Options(Closed):
    """ShrinkPad's settings; its four pixels of 32 are a share of the side here.

    Attributes:
        shrink: How much smaller the image becomes, as a share of its side; 0 leaves its size as it is.
        degrees: It is rotated by up to so much, either way.
        mirror: Whether it is mirrored, by chance.
        seed: Of what is drawn.
    """

    shrink: float = Field(default=1 / 8, ge=0, lt=1)
    degrees: float = Field(default=0.0, ge=0, le=180)
    mirror: bool = False
    seed: int = 0


def fit(victim: DefendedLvlm, data: Questions | None, options: Options) -> Tensors:
    """Nothing to tune."""
    del victim, data, options
    return {}


def load(tensors: Tensors, victim: DefendedLvlm, options: Options) -> DefendedLvlm:
    """The model behind the transformation, which comes before what earlier defenses do to the pixels."""
    del tensors
    if options == Options(shrink=0, seed=options.seed):
        return victim

    def pixels(images: Tensor) -> Tensor:
        seeds = content_seeds(images, options.seed)
        moved = torch.stack(
            [transformed(one, options, generator(seed)) for one, seed in zip(images, seeds, strict=True)]
        )
        return moved if victim.pixels is None else victim.pixels(moved)

    return replace(victim, pixels=pixels)


def transformed(image: Tensor, options: Options, stream: Generator) -> Tensor:
    """One image ``(3, h, w)``, shrunk, mirrored, rotated and put down on black of its old size."""
    mirrored, turn, down, right = torch.rand(4, generator=stream, dtype=torch.float64).tolist()
    height, width = image.shape[-2:]
    small = [max(1, side - round(options.shrink * side)) for side in (height, width)]
    one = resize(image, small, InterpolationMode.BILINEAR, antialias=True)
    if options.mirror and mirrored < 0.5:
        one = hflip(one)
    if options.degrees:
        one = rotate(one, (2 * turn - 1) * options.degrees, InterpolationMode.BILINEAR)
    top, left = int(down * (height - small[0] + 1)), int(right * (width - small[1] + 1))
    placed = torch.zeros_like(image)
    placed[:, top : top + small[0], left : left + small[1]] = one
    return placed
