"""ZIP (NeurIPS 2023): a trigger is lost where the image is blurred, and a diffusion model fills in what belongs there.

The image is drawn anew from pure noise. In each of a few steps, the part of it that the blur keeps is set to that of
the blurred image, with as much noise as belongs to the step, and the network's guess of the noise fills in the rest;
towards the end the image is left more and more to the network. The blur is an average over squares, and turning colours
to grey is a second such loss, averaged with the first one.

As in the official code: the noise schedule, 20 of its 1,000 times, and the default strengths. For large photographs its
authors blur only, which is the default here. Noise is drawn for each image from a stream of its own that starts from
the image's pixels. Left out is their laying small images together into one of 256 pixels: the network has the images'
size.

The network is OpenAI's unconditional one for ImageNet; ``weights`` names its file, as OpenAI publishes it. Without it,
a small one of the same kind is trained on clean images, which is what tables at mini scale do.
"""

from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from bench.defenses import restoring, unet
from bench.defenses.contract import Tensors, TunesOn
from bench.defenses.restoring import RestoringOptions
from bench.defenses.unet import UNet, UNetOptions
from bench.device import device_of
from bench.errors import UserError
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.questions import Questions
from bench.randomness import content_seeds, generator

TUNES_ON: TunesOn = "questions"
DEFENDS = "lvlm"
IGNORES_VICTIM = True
BUILDS_ON = (restoring, unet)
_ADDRESS = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt"
_TIMES, _FIRST, _LAST = 1_000, 1e-4, 0.02
# The published network also predicts a variance for each value, which is not used.
_PUBLISHED_OUTPUTS = 6


class Options(UNetOptions, RestoringOptions):
    """The official code's settings.

    Attributes:
        weights: File of the published network's weights; if empty, one is trained on clean images.
        sampling: Steps in which the image is drawn; 0 leaves it as it is.
        scale: Side of the squares that the blur averages over.
        grey: Whether the image without its colours is a second guide.
        power: How soon the image is left to the network; the larger, the later.
    """

    weights: str = "data/archives/guided_diffusion/256x256_diffusion_uncond.pt"
    sampling: int = Field(default=20, ge=0, le=_TIMES)
    scale: int = Field(default=2, gt=0)
    grey: bool = False
    power: float = Field(default=10.0, ge=0)

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        fault = unet.faults(self)
        if self.side % self.scale:
            fault = f"scale {self.scale} does not divide side {self.side}"
        if fault:
            raise ValueError(fault)
        return self


def fit(victim: DefendedLvlm, data: Questions | None, options: Options) -> Tensors:
    """The network: trained to tell the noise in clean images, or the hash of the published one.

    Raises:
        UserError: There are no images to train on, or the published weights are not here.
    """
    del victim
    if options.weights:
        return restoring.published(_published(options))

    def loss(images: Tensor, stream: Generator) -> Tensor:
        times = torch.randint(_TIMES, (len(images),), generator=stream)
        noise = torch.randn(len(images), 3, options.side, options.side, generator=stream).to(images)
        left = kept_of(times)[:, None, None, None].to(images)
        noisy = left.sqrt() * _entered(images, options.side) + (1 - left).sqrt() * noise
        return functional.mse_loss(network(noisy, times.to(images.device)), noise)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = UNet(options)
    return restoring.trained(restoring.train(network, data, loss, options, "zip"))


def load(tensors: Tensors, victim: DefendedLvlm, options: Options) -> DefendedLvlm:
    """The model behind the purification, which comes before what earlier defenses do to the pixels."""
    if options.sampling == 0:
        return victim
    network = restoring.restored(_published(options) if options.weights else UNet(options), tensors, "zip")

    def pixels(images: Tensor) -> Tensor:
        pure = purified(network, images, options)
        return pure if victim.pixels is None else victim.pixels(pure)

    return replace(victim, pixels=pixels)


def reads(options: Options) -> list[Path]:
    """The published weights, where they are asked for.

    Raises:
        UserError: They are not here.
    """
    for missing in wants(options):
        raise UserError(missing)
    return [Path(options.weights)] if options.weights else []


def wants(options: Options) -> list[str]:
    """The published weights, where they are asked for and not here."""
    if not options.weights or Path(options.weights).exists():
        return []
    return [
        f"zip.weights: {options.weights} is missing; put {_ADDRESS} there (2.2 GB), or write '' and the sizes of a "
        "small network to train one"
    ]


def tuned_parameters(tensors: Tensors) -> int:
    """Numbers of the trained network."""
    return restoring.numbers(tensors)


def training_samples(data: Questions | None, options: Options) -> int:
    """Images that the network was trained on."""
    return 0 if data is None or options.weights else len(data.images)


def multiplications(options: Options) -> float:
    """Of the network, for one image."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        UNet(options)(torch.empty(1, 3, options.side, options.side), torch.zeros(1))
    return options.sampling * counter.get_total_flops() / 2


def kept_of(times: Tensor) -> Tensor:
    """Share of the image's variance that is left at ``times``, of which -1 is before all noise."""
    noise = torch.linspace(_FIRST, _LAST, _TIMES, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - noise).cumprod(dim=0)])[times.cpu() + 1]


@torch.no_grad()
def purified(network: UNet, images: Tensor, options: Options) -> Tensor:
    """Images ``(n, 3, h, w)`` in [0,1], drawn anew around what the blur leaves of them."""
    streams = [generator(seed) for seed in content_seeds(images, options.seed)]
    given, shape = _entered(images.to(device_of(network)), options.side), (3, options.side, options.side)

    def noise() -> Tensor:
        return torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(given)

    drawn, skip = noise(), _TIMES // options.sampling
    for step in reversed(range(options.sampling)):
        now, then = (float(kept_of(torch.tensor(time))) for time in (step * skip, (step - 1) * skip if step else -1))
        guess = network(drawn, torch.full((len(drawn),), step * skip, device=drawn.device))
        guided = _guided(given, drawn, guess, now, options)
        clean = (guided - (1 - now) ** 0.5 * guess) / now**0.5
        spread = ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        drawn = then**0.5 * clean + max(0.0, 1 - then - spread**2) ** 0.5 * guess + spread * noise()
    return _resized(((drawn + 1) / 2).clamp(0, 1), images.shape[-2:]).to(images)


def _guided(given: Tensor, drawn: Tensor, guess: Tensor, kept: float, options: Options) -> Tensor:
    """The image so far with what the losses keep replaced by the given image's, at the step's level of noise."""
    losses = [lambda one: _blurred(one, options.scale), *([_grey] if options.grey else [])]
    target = kept**0.5 * given + (1 - kept) ** 0.5 * guess - drawn
    guided = drawn + sum(lose(target) for lose in losses) / len(losses)
    free = kept**options.power
    return (1 - free) * guided + free * drawn


def _blurred(images: Tensor, scale: int) -> Tensor:
    return functional.interpolate(functional.avg_pool2d(images, scale), scale_factor=float(scale))


def _grey(images: Tensor) -> Tensor:
    return images.mean(dim=1, keepdim=True).expand_as(images)


def _entered(images: Tensor, side: int) -> Tensor:
    """Images in [0,1] as the network takes them: of its size, in [-1,1]."""
    return 2 * _resized(images, (side, side)) - 1


def _resized(images: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size=list(size), mode="bilinear", antialias=True).clamp(0, 1)


def _published(options: Options) -> UNet:
    """The published network, from its file."""
    (path,) = reads(options)
    network = UNet(options, _PUBLISHED_OUTPUTS)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch and pickle raise many types for damage, and RuntimeError for other sizes
        reason = str(error).splitlines()[0]
        raise UserError(f"zip.weights: {path} does not hold this network ({reason}); get {_ADDRESS} again") from error
    return network
