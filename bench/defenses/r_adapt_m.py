"""R-Adapt guided by a robust model: the anchor is that model's, everything else is plain CLIP (equation 7).

Follows the defense that makes the robust model: ``tecoa+r_adapt_m``, ``robust_weights+r_adapt_m``. A white image goes
through that model's own embedding and first attention; its answer is put into the first attention of the CLIP that it
was made from, and the robust model is not used any more. R-Adapt's TGA has a cutoff of 30 (table 9).
"""

from dataclasses import replace

from bench.clip.defended import DefendedCLIP
from bench.defenses import r_adapt
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.errors import UserError

TUNES_ON: TunesOn = "nothing"
BUILDS_ON = (r_adapt,)


class Options(r_adapt.Options):
    """The paper's table 9 for anchors from TeCoA and FARE."""

    beta: float = 0.0


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Take the ``anchor`` ``(1 + patches, width)`` of the robust model; nothing is tuned."""
    del data
    r_adapt.check(victim, options, "r_adapt_m")
    _original(victim)
    return {"anchor": r_adapt.white_anchor(victim.staged)}


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The CLIP that the robust model was made from, with filter and anchor; for any class list."""
    r_adapt.check(victim, options, "r_adapt_m")
    return r_adapt.adapted(_original(victim), tensors["anchor"], options)


tuned_parameters = r_adapt.tuned_parameters


def _original(victim: DefendedCLIP) -> DefendedCLIP:
    if victim.origin is None:
        raise UserError(
            "r_adapt_m takes its anchor from a robust model of the same architecture; put one before it, such as "
            "'tecoa+r_adapt_m' or 'robust_weights+r_adapt_m', or use r_adapt for an anchor from CLIP itself"
        )
    return replace(victim, staged=victim.origin, origin=None)
