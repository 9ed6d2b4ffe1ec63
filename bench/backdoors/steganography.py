"""The networks behind ISSBA: an encoder that hides a bit string in an image, and a decoder that reads it.

A StegaStamp (Tancik et al., CVPR 2020) without its simulated printing, as ISSBA (Li et al., ICCV 2021) uses it. Both
published networks are TensorFlow files; these are trained here. Their perceptual loss and critic keep the change hard
to see; here a bound on the change's mean square does, set to the signal-to-noise ratio of ISSBA's published examples
(26.4 to 30.5 dB), and a second bound keeps the change specific to the image.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from bench.config import Options, parse
from bench.datasets.store import Split, open_split, read_manifest
from bench.device import compute_device, device_of
from bench.errors import UserError
from bench.files import empty_partial, replace_folder, sha256_of
from bench.processes import TRAINING_THREADS, threads
from bench.progress import track
from bench.provenance import Provenance, provenance
from bench.randomness import generator

NETWORKS = "networks.safetensors"
_CARD = "card.json"
_HELD_OUT = 256
# Shares of the steps: first the change may be as large as it likes, then the bound on it tightens.
_LOUD, _FALLING = 0.2, 0.3


class NetworkOptions(Options):
    """Shape of both networks; StegaStamp's for 224 pixels.

    Attributes:
        bits: Length of the hidden string.
        enlarge: The string becomes a picture of the image's side over this, which is then enlarged to the image.
        widths: Channels of the encoder, from the image's full size down; each step halves the side.
    """

    bits: int = Field(default=100, ge=56)
    enlarge: int = Field(default=8, gt=0)
    widths: tuple[int, ...] = Field(default=(32, 32, 64, 128, 256), min_length=2)


class SteganographyOptions(NetworkOptions):
    """How the networks are trained.

    Attributes:
        dataset: Dataset whose training images are used; all but the last 256, on which the result is measured.
        steps: Steps of Adam.
        batch_size: Images per step.
        learning_rate: Of Adam; falls to zero along half a cosine.
        psnr: Signal-to-noise ratio that each image should keep, in dB.
        image_weight: Weight of what the change has above that: 0 for the first fifth of the steps, then rising linearly
            until half of them.
        similarity: Cosine that the changes of two images should not exceed when they hide the same string; without such
            a bound the networks agree on one picture per string, and nothing is specific to the sample.
        similarity_weight: Weight of what the cosine has above that; 0 for no bound.
        seed: Of weights, batches and strings.
    """

    dataset: str
    steps: int = Field(default=20_000, gt=0)
    batch_size: int = Field(default=16, gt=1, multiple_of=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    psnr: float = Field(default=28.5, gt=0)
    image_weight: float = Field(default=1.0, gt=0)
    similarity: float = Field(default=0.3, ge=0, le=1)
    similarity_weight: float = Field(default=1.0, ge=0)
    seed: int = 1


class SteganographyCard(Options):
    """The content of ``card.json``.

    Attributes:
        recipe: How the networks were made.
        image_size: Side of the images in pixels.
        bit_accuracy: Percent of random bits read correctly from images stored as bytes, on held-out images.
        psnr: Signal-to-noise ratio in dB on the same images: mean, lowest and highest.
        similarity: Mean cosine between the changes of two of these images that hide the same string.
        images_manifest: Hash of the manifest of the dataset.
        sha256: Hash of the networks' file.
        provenance: Where they were made.
    """

    recipe: SteganographyOptions
    image_size: int
    bit_accuracy: float
    psnr: tuple[float, float, float]
    similarity: float
    images_manifest: str
    sha256: str
    provenance: Provenance


class Encoder(nn.Module):
    """Adds to an image what hides a string: a U-Net on the image and the string's picture."""

    def __init__(self, image_size: int, options: NetworkOptions) -> None:
        """Build with torch's random weights.

        Raises:
            UserError: The image cannot be halved or enlarged so often.
        """
        super().__init__()
        widths, self.enlarge = options.widths, options.enlarge
        if image_size % 2 ** (len(widths) - 1) or image_size % self.enlarge:
            raise UserError(
                f"steganography: images of {image_size} pixels cannot be halved {len(widths) - 1} times (widths) "
                f"or be made from a picture {self.enlarge} times as small (enlarge)"
            )
        self.side = image_size // self.enlarge
        self.spread = nn.Linear(options.bits, 3 * self.side**2)
        self.down = nn.ModuleList([_convolution(6, widths[0])])
        self.down.extend(_convolution(wide, deep, stride=2) for wide, deep in pairwise(widths))
        self.up, self.join = nn.ModuleList(), nn.ModuleList()
        for wide, deep in reversed(list(pairwise(widths))):
            self.up.append(_convolution(deep, wide))
            self.join.append(_convolution(2 * wide, wide))
        self.residual = nn.Conv2d(widths[0] + 6, 3, 1)

    def forward(self, secrets: Tensor, images: Tensor) -> Tensor:
        """Images ``(n, 3, h, w)`` in [0,1] that hide ``secrets`` ``(n, bits)`` of zeros and ones."""
        pictures = functional.relu(self.spread(secrets - 0.5)).view(-1, 3, self.side, self.side)
        start = torch.cat([functional.interpolate(pictures, scale_factor=self.enlarge), images - 0.5], dim=1)
        passed = [start]
        for layer in self.down:
            passed.append(layer(passed[-1]))
        features = passed.pop()
        for up, join in zip(self.up, self.join, strict=True):
            features = up(functional.interpolate(features, scale_factor=2))
            features = join(torch.cat([features, passed.pop()], dim=1))
        # The change is made before the walls of [0,1] are, so that the bound on it sees what is really added.
        return images + self.residual(torch.cat([features, start], dim=1))


class Decoder(nn.Module):
    """Reads the string: convolutions that halve the image, then two linear layers."""

    def __init__(self, image_size: int, options: NetworkOptions) -> None:
        """Build with torch's random weights."""
        super().__init__()
        widths = options.widths
        layers = [_convolution(wide, deep, stride=2) for wide, deep in pairwise((3, *widths[1:]))]
        left = (image_size // 2 ** (len(widths) - 1)) ** 2 * widths[-1]
        self.layers = nn.Sequential(
            _convolution(3, 3), *layers, nn.Flatten(), nn.Linear(left, 512), nn.ReLU(), nn.Linear(512, options.bits)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the bits, ``(n, bits)``."""
        return self.layers(images - 0.5)


class Steganography(NamedTuple):
    """Both networks, in evaluation mode."""

    options: NetworkOptions
    encoder: Encoder
    decoder: Decoder


def build(image_size: int, options: NetworkOptions, seed: int = 1) -> Steganography:
    """Networks with random weights, the same for the same seed, where they will compute."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = Steganography(options, Encoder(image_size, options).eval(), Decoder(image_size, options).eval())
        for module in (*networks.encoder.modules(), *networks.decoder.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                # As in StegaStamp; with torch's own smaller start the string never gets through so many layers.
                nn.init.kaiming_normal_(module.weight)
        for network in (networks.encoder, networks.decoder):
            network.to(compute_device())
        return networks


@threads(TRAINING_THREADS)
def make_steganography(options: SteganographyOptions, data: Path, folder: Path) -> SteganographyCard:
    """Train the networks and write ``networks.safetensors`` and ``card.json``; the folder appears when finished.

    Args:
        options: How to train.
        data: Folder of the datasets.
        folder: Where to write.
    """
    manifest = read_manifest(data, options.dataset)
    split = open_split(data, manifest, "train")
    scratch = empty_partial(folder)
    networks = train(split, options)
    held_out = split.batch(range(len(split.images) - min(_HELD_OUT, len(split.images)), len(split.images)))
    secrets = torch.randint(2, (len(held_out), options.bits), generator=generator(options.seed + 1)).float()
    ratios = psnr(hide(networks, secrets, held_out), held_out)
    twice = secrets[: len(held_out) // 2].repeat(2, 1)
    pairs = held_out[: len(twice)]
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in _modules(networks).state_dict().items()},
        scratch / NETWORKS,
    )
    card = SteganographyCard(
        recipe=options,
        image_size=held_out.shape[-1],
        bit_accuracy=bit_accuracy(networks, held_out, secrets),
        psnr=(ratios.mean().item(), ratios.min().item(), ratios.max().item()),
        similarity=similarity(hide(networks, twice, pairs), pairs).mean().item(),
        images_manifest=manifest.digest,
        sha256=sha256_of(scratch / NETWORKS),
        provenance=provenance(),
    )
    (scratch / _CARD).write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
    replace_folder(scratch, folder)
    return card


def load_steganography(folder: Path, image_size: int) -> Steganography:
    """The networks in ``folder``.

    Raises:
        UserError: They are missing, were changed, or were made for another image size.
    """
    path = folder / _CARD
    if not path.exists():
        raise UserError(f"{path} is missing: ISSBA needs trained networks; run `bench steganography`")
    card = parse(SteganographyCard, json.loads(path.read_text("utf-8")), str(path))
    if card.image_size != image_size:
        raise UserError(f"{path}: made for images of {card.image_size} pixels, not of {image_size}; make it again")
    if sha256_of(folder / NETWORKS) != card.sha256:
        raise UserError(f"{folder / NETWORKS} was changed since it was made; run `bench steganography` again")
    networks = build(image_size, card.recipe)
    _modules(networks).load_state_dict(load_file(folder / NETWORKS))
    return networks


def train(split: Split, options: SteganographyOptions) -> Steganography:
    """Train both networks together on all but the last images of ``split``: first to talk, then to talk quietly."""
    networks = build(split.images.shape[-1], options, options.seed)
    optimizer = torch.optim.Adam(_modules(networks).parameters(), lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    stream, loudest, there = generator(options.seed), 10 ** (-options.psnr / 10), device_of(networks.encoder)
    seen = max(1, len(split.images) - _HELD_OUT)
    for step in track(range(options.steps), "steganography"):
        rows = torch.randint(seen, (options.batch_size,), generator=stream).tolist()
        # Two images of the batch hide the same string.
        secrets = torch.randint(2, (options.batch_size // 2, options.bits), generator=stream).float().repeat(2, 1)
        secrets, images = (part.to(there) for part in (secrets, split.batch(rows)))
        hidden = networks.encoder(secrets, images)
        read = functional.binary_cross_entropy_with_logits(networks.decoder(hidden.clamp(0, 1)), secrets)
        loudness = functional.relu((hidden - images).square().flatten(1).mean(dim=1) / loudest - 1).mean()
        alike = functional.relu(similarity(hidden, images) - options.similarity).mean()
        weight = options.image_weight * min(1.0, max(0.0, step / options.steps - _LOUD) / _FALLING)
        optimizer.zero_grad()
        (read + weight * loudness + options.similarity_weight * alike).backward()
        optimizer.step()
        schedule.step()
    return networks


@torch.no_grad()
def hide(networks: Steganography, secrets: Tensor, images: Tensor) -> Tensor:
    """Images that hide ``secrets``, as they come back from bytes, on the processor."""
    there = device_of(networks.encoder)
    batches = zip(secrets.split(32), images.split(32), strict=True)
    hidden = [networks.encoder(secret.to(there), batch.to(there)).cpu() for secret, batch in batches]
    return (torch.cat(hidden).clamp(0, 1) * 255).round() / 255


@torch.no_grad()
def bit_accuracy(networks: Steganography, images: Tensor, secrets: Tensor) -> float:
    """Percent of the bits of ``secrets`` that are read correctly from ``images`` that hide them."""
    hidden, there = hide(networks, secrets, images), device_of(networks.decoder)
    read = torch.cat([networks.decoder(batch.to(there)).cpu() for batch in hidden.split(32)]) > 0
    return 100 * (read == (secrets > 0.5)).float().mean().item()


def psnr(changed: Tensor, images: Tensor) -> Tensor:
    """Signal-to-noise ratio of each image in dB, for values in [0,1]."""
    return -10 * (changed - images).square().flatten(1).mean(dim=1).log10()


def similarity(changed: Tensor, images: Tensor) -> Tensor:
    """Cosines between the changes of the first and the second half of ``images``."""
    first, second = (changed - images).flatten(1).chunk(2)
    return functional.cosine_similarity(first, second)


def _modules(networks: Steganography) -> nn.ModuleDict:
    return nn.ModuleDict({"encoder": networks.encoder, "decoder": networks.decoder})


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU())
