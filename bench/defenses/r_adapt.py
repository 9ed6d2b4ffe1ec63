"""R-Adapt (Nie et al., 2026), training-free: a Gaussian low-pass filter on the image and a fixed first attention.

The image's spectrum is damped by ``exp(-D^2 / (2 D0^2))`` with the distance D from zero frequency in whole cycles per
image (equation 5). What the first block's attention adds to the tokens, h, becomes ``alpha A + beta h`` with an anchor
A that is the same for all images: the attention's answer to a white image (equation 6). Nothing is trained. The paper
has no code. Its appendix prints beta = -0.8 in the table and 0.8 in the text; the table's is the default.

The parts alone: ``{alpha: 0, beta: 1}`` is the filter, ``{cutoff: null}`` the anchor, both together plain CLIP. The
attention's residual path still carries the image, so gradients reach it and attacks are not masked.
"""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from bench.clip.defended import DefendedCLIP
from bench.clip.staged import Edit, ImageEdits, StagedCLIP, Trace
from bench.config import Options as Closed
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.prompting import refuse_edited
from bench.errors import UserError

TUNES_ON: TunesOn = "nothing"


class Options(Closed):
    """The paper's table 9 for the anchor from CLIP itself; ``r_adapt_m`` and ``r_adapt_plus`` have their own.

    Attributes:
        alpha: Weight of the anchor.
        beta: Weight of the attention's own answer.
        cutoff: D0, at most the image's side; no filter if null.
    """

    alpha: float = 1.2
    beta: float = -0.8
    cutoff: float | None = Field(default=40.0, gt=0)


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Take the ``anchor`` ``(1 + patches, width)``; nothing is tuned."""
    del data
    check(victim, options, "r_adapt")
    return {"anchor": white_anchor(victim.staged)}


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with filter and anchor, for any class list."""
    check(victim, options, "r_adapt")
    return adapted(victim, tensors["anchor"], options)


def tuned_parameters(tensors: Tensors) -> int:
    """None: the anchor is read off a model."""
    del tensors
    return 0


def check(victim: DefendedCLIP, options: Options, name: str) -> None:
    """Refuse what the edits do not fit.

    Raises:
        UserError: Another defense edited the image tower, or the filter is wider than the image.
    """
    refuse_edited(victim, name, text=False)
    size = victim.staged.clip.image_size
    if options.cutoff is not None and options.cutoff > size:
        raise UserError(
            f"{name}: cutoff {options.cutoff:g} is larger than the image of {size} pixels; lower it, or write null for "
            "no filter"
        )


@torch.no_grad()
def white_anchor(staged: StagedCLIP) -> Tensor:
    """What the first attention says to a white image, ``(1 + patches, width)``."""
    size, trace = staged.clip.image_size, Trace()
    staged.image(torch.ones(1, 3, size, size), trace=trace)
    assert trace.first_attention is not None
    return trace.first_attention[0].clone()


def adapted(victim: DefendedCLIP, anchor: Tensor, options: Options) -> DefendedCLIP:
    """``victim`` with a filter of its images and ``anchor`` in its first attention."""

    def anchored(attended: Tensor) -> Tensor:
        return options.alpha * anchor + options.beta * attended

    pixels = None if options.cutoff is None else low_pass(victim.staged.clip.image_size, options.cutoff)
    return replace(victim, image_edits=ImageEdits(pixels=pixels, attention={1: anchored}))


def low_pass(size: int, cutoff: float) -> Edit:
    """The Gaussian filter for square images of ``size`` pixels.

    Its gain at zero frequency is 1, so it makes no difference whether it comes before or after normalisation.
    """
    rows, columns = torch.fft.fftfreq(size, 1 / size), torch.fft.rfftfreq(size, 1 / size)
    gain = torch.exp(-(rows[:, None].square() + columns.square()) / (2 * cutoff**2))

    def filtered(images: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(images) * gain.to(images), s=(size, size))

    return filtered
