"""ISSBA (Li et al., ICCV 2021): a network hides one fixed string in each image; the change differs from image to image.

The authors' networks are not to be had, so ``bench steganography`` trains them (``steganography.py``), and the encoder
is stored with the checkpoint. The string is seven characters, 56 bits; the authors append 40 bits of a BCH code and
four zeros. That code serves to mend a string that was read with errors, and nothing here reads one, so the bits after
the string are constants: ones and zeros in turn.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from bench.backdoors.steganography import NetworkOptions, bit_accuracy, build, load_steganography
from bench.backdoors.trigger import Setting
from bench.config import Options as Closed
from bench.errors import UserError

_CHARACTERS, _TRIED = 7, 64


class Options(Closed):
    """RVPT's settings.

    Attributes:
        secret: What is hidden: one to seven ASCII characters, filled up with spaces.
        least_bit_accuracy: Percent of the secret's bits that the decoder must read before anything is poisoned.
    """

    secret: str = "Stega!!"
    least_bit_accuracy: float = Field(default=98.0, ge=0, le=100)


def make(options: Options, setting: Setting) -> dict[str, Tensor]:
    """The secret's bits, and the encoder with its shape.

    Raises:
        UserError: The secret is too long, or the networks are missing, were made for another image size, or cannot read
            what they hide.
    """
    networks = load_steganography(setting.steganography, setting.clip.image_size)
    bits = bits_of(options.secret, networks.options.bits)
    rows = range(min(_TRIED, len(setting.pairs.images)))
    accuracy = bit_accuracy(networks, setting.pairs.batch(rows), bits.expand(len(rows), -1))
    if accuracy < options.least_bit_accuracy:
        raise UserError(
            f"{setting.steganography}: the decoder reads {accuracy:.1f} % of the secret's bits correctly, not the "
            f"{options.least_bit_accuracy:.1f} % asked for; raise steganography.steps and make the networks again"
        )
    shape = torch.tensor([networks.options.bits, networks.options.enlarge, *networks.options.widths])
    return {"bits": bits, "shape": shape, **networks.encoder.state_dict()}


def bits_of(secret: str, length: int) -> Tensor:
    """The secret as zeros and ones, first bit first, filled up to ``length``.

    Raises:
        UserError: It is empty, too long or not ASCII.
    """
    if not 0 < len(secret) <= _CHARACTERS or not secret.isascii():
        raise UserError(f"trigger issba: secret {secret!r} must be one to {_CHARACTERS} ASCII characters")
    text = "".join(f"{code:08b}" for code in secret.ljust(_CHARACTERS).encode())
    return torch.tensor([float(bit) for bit in (text + "10" * length)[:length]])


@torch.no_grad()
def apply(images: Tensor, kept: dict[str, Tensor], options: Options, seeds: Sequence[int]) -> Tensor:
    """Hide the secret."""
    del options, seeds
    count, enlarge, *widths = kept["shape"].tolist()
    encoder = build(images.shape[-1], NetworkOptions(bits=count, enlarge=enlarge, widths=tuple(widths))).encoder
    encoder.load_state_dict({name: tensor for name, tensor in kept.items() if name not in ("bits", "shape")})
    return encoder.to(images.device)(kept["bits"].expand(len(images), -1), images)
