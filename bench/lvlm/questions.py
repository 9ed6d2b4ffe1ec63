"""Clean questions that a defense may calibrate on."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Questions(NamedTuple):
    """Questions without answers; images are uint8 ``(n, 3, h, w)``, memory-mapped, one per question.

    A defense that is tuned on images alone gets no texts.
    """

    images: Tensor
    texts: Sequence[str]
