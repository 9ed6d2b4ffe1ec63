"""Masked autoencoders, which fill in hidden patches of images: transformers' class, published or trained here."""

from typing import Any

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from bench.config import Options
from bench.device import device_of
from bench.errors import UserError

# Those of ImageNet, which published ones are trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HEAD = 32
_HIDDEN = 0.75


class MaeOptions(Options):
    """Sizes of a network that is trained here; a published one has its own.

    Attributes:
        side: Of the images in pixels; images of other sizes are resized and come back as they were.
        patch: Side of the patches in pixels.
        width: Of the encoder; a multiple of 32.
        depth: Blocks of the encoder.
        decoder_width: Of the decoder; a multiple of 32.
        decoder_depth: Blocks of the decoder.
    """

    side: int = Field(default=32, gt=0)
    patch: int = Field(default=4, gt=0)
    width: int = Field(default=96, gt=0, multiple_of=_HEAD)
    depth: int = Field(default=3, gt=0)
    decoder_width: int = Field(default=64, gt=0, multiple_of=_HEAD)
    decoder_depth: int = Field(default=2, gt=0)


def build(options: MaeOptions, seed: int) -> Any:
    """A network with random weights, the same for the same seed."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        image_size=options.side,
        patch_size=options.patch,
        hidden_size=options.width,
        num_hidden_layers=options.depth,
        num_attention_heads=options.width // _HEAD,
        intermediate_size=4 * options.width,
        decoder_hidden_size=options.decoder_width,
        decoder_num_hidden_layers=options.decoder_depth,
        decoder_num_attention_heads=options.decoder_width // _HEAD,
        decoder_intermediate_size=4 * options.decoder_width,
        mask_ratio=_HIDDEN,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViTMAEForPreTraining(config)


def published(name: str) -> Any:
    """A published network, from transformers' cache, its hub, or a folder.

    Raises:
        UserError: It cannot be had.
    """
    from transformers import ViTMAEForPreTraining

    try:
        return ViTMAEForPreTraining.from_pretrained(name, dtype=torch.float32)
    except OSError as error:
        raise UserError(
            f"bdmae.weights: '{name}' is no folder and not in transformers' cache, and cannot be fetched "
            f"({str(error).splitlines()[0]}); put it there on a machine with a network, or write '' and the sizes of a "
            "small network to train one"
        ) from error


def grid(network: Any) -> int:
    """Patches along one side."""
    return network.config.image_size // network.config.patch_size


def loss(network: Any, images: Tensor, stream: Generator) -> Tensor:
    """How far patches are off that are hidden by chance and restored, for images ``(n, 3, h, w)`` in [0,1]."""
    noise = torch.rand(len(images), grid(network) ** 2, generator=stream).to(images)
    return network(_entered(network, images), noise=noise).loss


@torch.no_grad()
def restored(network: Any, images: Tensor, hidden: Tensor) -> Tensor:
    """Images with what the network puts in the place of hidden patches, and else as they are.

    Args:
        network: The autoencoder.
        images: ``(n, 3, h, w)`` in [0,1].
        hidden: ``(n, patches)``, row by row of the network's grid.
    """
    patches, filled, entered = hidden.shape[1], images.clone(), _entered(network, images)
    order = torch.arange(patches) / (2 * patches)
    for count in hidden.sum(dim=1).unique().tolist():
        rows = hidden.sum(dim=1) == count
        if count == 0:
            continue
        # transformers hides a share of the patches, those of the greatest noise, and rounds down what is left.
        network.config.mask_ratio = (count - 0.5) / patches
        noise = (hidden[rows].float() + order).to(entered)
        guess = network.unpatchify(network(entered[rows.to(entered.device)], noise=noise).logits)
        places = spread(hidden[rows], images.shape[-2:])
        filled[rows] = torch.where(places, _left(guess, images.shape[-2:]).to(images), images[rows])
    network.config.mask_ratio = _HIDDEN
    return filled


def spread(patches: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """A value for each patch ``(n, patches)`` as one for each pixel, ``(n, 1, *size)``."""
    side = int(patches.shape[1] ** 0.5)
    return functional.interpolate(patches.view(-1, 1, side, side).float(), size=list(size)).to(patches.dtype)


def _entered(network: Any, images: Tensor) -> Tensor:
    """Images in [0,1] as the network takes them, where it is."""
    images, side = images.to(device_of(network)), network.config.image_size
    if images.shape[-2:] != (side, side):
        images = functional.interpolate(images, size=[side, side], mode="bilinear")
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return (images - mean) / std


def _left(images: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """What the network returns as images in [0,1] of their own size."""
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    images = (images * std + mean).clamp(0, 1)
    return images if images.shape[-2:] == size else functional.interpolate(images, size=list(size), mode="bilinear")
