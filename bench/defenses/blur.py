"""Blur: the image is smoothed by a Gaussian before the model sees it, in the hope that no trigger survives that."""

from dataclasses import replace

from pydantic import Field
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from bench.config import Options as Closed
from bench.defenses.contract import Tensors, TunesOn
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.questions import Questions

TUNES_ON: TunesOn = "nothing"
DEFENDS = "lvlm"


class Options(Closed):
    """No paper gives settings; these are for images of 336 pixels.

    Attributes:
        kernel: Side of the window in pixels; odd.
        sigma: Standard deviation in pixels; 0 leaves the image as it is.
    """

    kernel: int = Field(default=5, gt=0)
    sigma: float = Field(default=1.5, ge=0)


def fit(victim: DefendedLvlm, data: Questions | None, options: Options) -> Tensors:
    """Nothing to tune."""
    del victim, data, options
    return {}


def load(tensors: Tensors, victim: DefendedLvlm, options: Options) -> DefendedLvlm:
    """The model behind the filter, which comes before what earlier defenses do to the pixels."""
    del tensors
    if options.sigma == 0:
        return victim

    def pixels(images: Tensor) -> Tensor:
        smooth = gaussian_blur(images, [options.kernel, options.kernel], [options.sigma, options.sigma])
        return smooth if victim.pixels is None else victim.pixels(smooth)

    return replace(victim, pixels=pixels)
