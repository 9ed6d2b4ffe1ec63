"""The U-Net that predicts the noise in an image: that of "Diffusion Models Beat GANs on Image Synthesis", in any size.

Names of modules are those of OpenAI's guided-diffusion, so that its published weights fit. Left out is what ZIP's model
does not use: classes, dropout, other ways to halve images.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.config import Options

_GROUPS = 32


class UNetOptions(Options):
    """Sizes of the network; those of guided-diffusion's unconditional model for ImageNet.

    Attributes:
        side: Of the images in pixels; images of other sizes are resized and come back as they were.
        channels: At the images' full size; a multiple of 32.
        multiples: Channels at each level, as multiples of ``channels``; each level halves the side.
        blocks: Residual blocks per level.
        attention: Sides at which there is attention.
        head: Channels of an attention head.
    """

    side: int = Field(default=256, gt=1)
    channels: int = Field(default=256, gt=0, multiple_of=_GROUPS)
    multiples: tuple[int, ...] = Field(default=(1, 1, 2, 2, 4, 4), min_length=1)
    blocks: int = Field(default=2, gt=0)
    attention: tuple[int, ...] = (32, 16, 8)
    head: int = Field(default=64, gt=0)


class Residual(nn.Module):
    """Two convolutions around a shortcut; in between, the time scales and shifts."""

    def __init__(self, inputs: int, outputs: int, time: int, factor: float = 1.0) -> None:
        """Build with random weights; ``factor`` is 2 to double the side on the way, and 0.5 to halve it."""
        super().__init__()
        self.factor = factor
        self.in_layers = nn.Sequential(nn.GroupNorm(_GROUPS, inputs), nn.SiLU(), _convolution(inputs, outputs))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * outputs))
        last = _zeroed(_convolution(outputs, outputs))
        self.out_layers = nn.Sequential(nn.GroupNorm(_GROUPS, outputs), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """Features ``(n, inputs, h, w)`` at times ``(n, time)`` to ``(n, outputs, h', w')``."""
        norm, activation, convolution = self.in_layers
        inner = convolution(_resampled(activation(norm(features)), self.factor))
        scale, shift = self.emb_layers(time)[:, :, None, None].chunk(2, dim=1)
        inner = self.out_layers[1:](self.out_layers[0](inner) * (1 + scale) + shift)
        return self.skip_connection(_resampled(features, self.factor)) + inner


class Attention(nn.Module):
    """Every place attends to all others."""

    def __init__(self, channels: int, head: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.heads = channels // head
        self.norm = nn.GroupNorm(_GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """Features ``(n, channels, h, w)`` to the same shape; the time is not looked at."""
        del time
        flat = features.flatten(2)
        # Heads are split first, then queries, keys and values: the older of the two orders in the official code.
        parts = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1)).transpose(-1, -2)
        mixed = functional.scaled_dot_product_attention(parts[:, :, 0], parts[:, :, 1], parts[:, :, 2])
        return (flat + self.proj_out(mixed.transpose(-1, -2).flatten(1, 2))).view_as(features)


class Stage(nn.Sequential):
    """Layers that see the time as well."""

    def forward(self, features: Tensor, time: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One after the other."""
        for layer in self:
            features = layer(features) if isinstance(layer, nn.Conv2d) else layer(features, time)
        return features


class UNet(nn.Module):
    """From noisy images and how noisy they are to the noise in them."""

    def __init__(self, options: UNetOptions, outputs: int = 3) -> None:
        """Build with random weights; the published network has 6 ``outputs``, of which the last three go unused."""
        super().__init__()
        self.channels, time = options.channels, 4 * options.channels
        self.time_embed = nn.Sequential(nn.Linear(self.channels, time), nn.SiLU(), nn.Linear(time, time))
        widths = [multiple * options.channels for multiple in options.multiples]
        self.input_blocks = nn.ModuleList([Stage(_convolution(3, widths[0]))])
        passed, width, side = [widths[0]], widths[0], options.side

        def level(inputs: int, outputs: int) -> list[nn.Module]:
            attended = [Attention(outputs, options.head)] if side in options.attention else []
            return [Residual(inputs, outputs, time), *attended]

        for number, outer in enumerate(widths):
            for _ in range(options.blocks):
                self.input_blocks.append(Stage(*level(width, outer)))
                passed.append(width := outer)
            if number < len(widths) - 1:
                self.input_blocks.append(Stage(Residual(width, width, time, 0.5)))
                passed.append(width)
                side //= 2
        self.middle_block = Stage(
            Residual(width, width, time), Attention(width, options.head), Residual(width, width, time)
        )
        self.output_blocks = nn.ModuleList()
        for number, outer in reversed(list(enumerate(widths))):
            for block in range(options.blocks + 1):
                layers, width = level(width + passed.pop(), outer), outer
                if number and block == options.blocks:
                    layers.append(Residual(width, width, time, 2.0))
                    side *= 2
                self.output_blocks.append(Stage(*layers))
        self.out = nn.Sequential(nn.GroupNorm(_GROUPS, width), nn.SiLU(), _zeroed(_convolution(width, outputs)))

    def forward(self, images: Tensor, times: Tensor) -> Tensor:
        """The noise in images ``(n, 3, side, side)`` of range [-1,1] at times ``(n,)``, of 0 to 999."""
        time = self.time_embed(_waves(times, self.channels))
        features, passed = images, list[Tensor]()
        for block in self.input_blocks:
            passed.append(features := block(features, time))
        features = self.middle_block(features, time)
        for block in self.output_blocks:
            features = block(torch.cat([features, passed.pop()], dim=1), time)
        return self.out(features)[:, :3]


def faults(options: UNetOptions) -> str:
    """Which sizes do not fit each other; empty if all do."""
    halvings = len(options.multiples) - 1
    if options.side % 2**halvings:
        return f"side {options.side} cannot be halved {halvings} times, as often as multiples asks"
    sides = [options.side // 2**number for number in range(halvings + 1)]
    attending = {multiple for side, multiple in zip(sides, options.multiples, strict=True) if side in options.attention}
    wrong = [width for width in {*attending, options.multiples[-1]} if width * options.channels % options.head]
    return f"head {options.head} does not divide {wrong[0] * options.channels} channels" if wrong else ""


def _waves(times: Tensor, width: int) -> Tensor:
    """Cosines and sines of the times, ``(n, width)``."""
    half = width // 2
    speeds = torch.exp(-math.log(10_000) * torch.arange(half, device=times.device) / half)
    angles = times[:, None].float() * speeds
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _resampled(features: Tensor, factor: float) -> Tensor:
    if factor == 1.0:
        return features
    return functional.interpolate(features, scale_factor=2.0) if factor > 1 else functional.avg_pool2d(features, 2)


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _zeroed(layer: nn.Conv2d | nn.Conv1d) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
