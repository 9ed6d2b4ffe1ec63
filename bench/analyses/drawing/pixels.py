"""Images inside a CSV: one field for each line of pixels, so that a picture can be drawn from its numbers alone."""

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor


def pixel_lines(image: Tensor) -> list[str]:
    """The lines of an image, from top to bottom: ``#``, then six hexadecimal digits (red, green, blue) for each pixel.

    Args:
        image: ``(3, h, w)`` in [0,1].
    """
    lines = (image * 255).round().byte().permute(1, 2, 0).numpy()
    # The mark in front keeps a line of digits from being read as a number.
    return [f"#{line.tobytes().hex()}" for line in lines]


def from_pixel_lines(lines: "pd.Series[str]") -> npt.NDArray[np.uint8]:
    """The image that ``pixel_lines`` wrote, ``(h, w, 3)``."""
    return np.array([np.frombuffer(bytes.fromhex(line[1:]), np.uint8).reshape(-1, 3) for line in lines])
