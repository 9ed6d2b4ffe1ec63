"""R-Adapt in the image tower of a large vision-language model: a low-pass filter and a fixed first attention.

As ``r_adapt`` in CLIP: what the tower's first attention adds to the tokens, h, becomes ``alpha A + beta h`` with its
answer to a white image as the anchor A, behind a Gaussian filter of the image. Nothing is trained; the paper's numbers
on LLaVA and Qwen3-VL are those of ``r_adapt_plus_lvlm``, whose anchor is tuned. ``{alpha: 0, beta: 1}`` is the filter
alone, ``{cutoff: null}`` the anchor, both together the plain model.
"""

from dataclasses import replace

from torch import Tensor

from bench.defenses import r_adapt
from bench.defenses.contract import Tensors, TunesOn
from bench.errors import UserError
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.questions import Questions
from bench.lvlm.tower import white_anchor

TUNES_ON: TunesOn = "nothing"
DEFENDS = "lvlm"
BUILDS_ON = (r_adapt,)


class Options(r_adapt.Options):
    """As for CLIP; the cutoff is in cycles per image and stays the same in larger images, for the paper states one."""


def fit(victim: DefendedLvlm, data: Questions | None, options: Options) -> Tensors:
    """Take the ``anchor`` ``(tokens, width)``; nothing is tuned."""
    del data
    check(victim, options, "r_adapt_lvlm")
    return {"anchor": white_anchor(victim.lvlm)}


def load(tensors: Tensors, victim: DefendedLvlm, options: Options) -> DefendedLvlm:
    """The victim with filter and anchor."""
    check(victim, options, "r_adapt_lvlm")
    return adapted(victim, tensors["anchor"], options)


tuned_parameters = r_adapt.tuned_parameters


def check(victim: DefendedLvlm, options: r_adapt.Options, name: str) -> None:
    """Refuse what the edits do not fit.

    Raises:
        UserError: Another defense edited the first attention, or the filter is wider than the image.
    """
    if victim.attention is not None:
        raise UserError(f"{name}: a defense before it edits the image tower's first attention already; use one of them")
    if options.cutoff is not None and options.cutoff > victim.lvlm.image_size:
        raise UserError(
            f"{name}: cutoff {options.cutoff:g} is larger than the image of {victim.lvlm.image_size} pixels; lower it, "
            "or write null for no filter"
        )


def adapted(victim: DefendedLvlm, anchor: Tensor, options: r_adapt.Options) -> DefendedLvlm:
    """``victim`` with ``anchor`` in its first attention and a filter behind what else is done to its pixels."""
    cutoff = options.cutoff

    def anchored(added: Tensor) -> Tensor:
        return options.alpha * anchor.to(added) + options.beta * added

    def filtered(images: Tensor) -> Tensor:
        before = images if victim.pixels is None else victim.pixels(images)
        return before if cutoff is None else r_adapt.low_pass(before.shape[-1], cutoff)(before)

    return replace(victim, pixels=victim.pixels if cutoff is None else filtered, attention=anchored)
