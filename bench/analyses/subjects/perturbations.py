"""What is done to an image to see how far its features move: noise, blur, colours, a flip, a patch, a trigger.

RVPT's supplement names them without all settings. The unstated ones follow torchvision (blur) and the paper's later
version (colours). Random numbers come from each image's own stream, so that no result depends on batches.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from bench.analyses.contract import Source
from bench.analyses.subjects.references import Need, Reference, missing
from bench.backdoors.trigger import Trigger, load_trigger
from bench.config import Options, Suite
from bench.errors import UserError
from bench.randomness import draw_each, generator

Change = Callable[[Tensor, Sequence[int]], Tensor]


class Noise(Options):
    """Gaussian noise on images in [0,1], clipped.

    Attributes:
        std: Standard deviation, in the units of [0,1].
    """

    std: float = Field(gt=0)

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Add the noise."""
        noise = draw_each(seeds, lambda stream: torch.randn(images.shape[1:], generator=stream)).to(images)
        return (images + self.std * noise).clamp(0, 1)


class Blur(Options):
    """Gaussian blur.

    Attributes:
        kernel: Side of the kernel in pixels, odd.
        sigma: Standard deviation in pixels; torchvision's choice for the kernel if not given.
    """

    kernel: int = Field(gt=0)
    sigma: float | None = Field(default=None, gt=0)

    @field_validator("kernel")
    @classmethod
    def _has_a_middle(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("must be odd")
        return kernel

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Blur."""
        del seeds
        return transforms.gaussian_blur(images, [self.kernel] * 2, None if self.sigma is None else [self.sigma] * 2)


class Jitter(Options):
    """Random changes of the colours, each drawn evenly; those of RVPT's later version.

    Attributes:
        brightness: The factor lies within this distance of 1.
        contrast: The factor lies within this distance of 1.
        saturation: The factor lies within this distance of 1.
        hue: The shift lies within this distance of 0; 0.5 is half the colour circle.
    """

    brightness: float = Field(default=0.5, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    hue: float = Field(default=0.3, ge=0, le=0.5)

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Change brightness, contrast, saturation and hue, in this order."""
        return torch.stack([self._one(image, seed) for image, seed in zip(images, seeds, strict=True)])

    def _one(self, image: Tensor, seed: int) -> Tensor:
        draws = (2 * torch.rand(4, generator=generator(seed)) - 1).tolist()
        image = transforms.adjust_brightness(image, 1 + self.brightness * draws[0])
        image = transforms.adjust_contrast(image, 1 + self.contrast * draws[1])
        image = transforms.adjust_saturation(image, 1 + self.saturation * draws[2])
        return transforms.adjust_hue(image, self.hue * draws[3])


class Patch(Options):
    """A square of noise in a random place, which no model has been poisoned with.

    Attributes:
        size: Side of the square in pixels.
    """

    size: int = Field(default=16, gt=0)

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Paste the square."""
        changed, room = images.clone(), images.shape[-1] - self.size
        if room < 0:
            raise UserError(f"patch: size {self.size} does not fit into an image of {images.shape[-1]} pixels")
        for row, seed in enumerate(seeds):
            stream = generator(seed)
            top, left = torch.randint(0, room + 1, (2,), generator=stream).tolist()
            noise = torch.rand(images.shape[1], self.size, self.size, generator=stream)
            changed[row, :, top : top + self.size, left : left + self.size] = noise
        return changed


class Flip(Options):
    """The image mirrored from left to right."""

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Mirror."""
        del seeds
        return transforms.horizontal_flip(images)


class Identity(Options):
    """Nothing; every resistivity is 1."""

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """The images as they are."""
        del seeds
        return images


class Planted(Reference):
    """The trigger that was planted in a checkpoint.

    Attributes:
        checkpoint: Which checkpoint.
    """

    checkpoint: str

    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """The checkpoint, which must have a trigger."""
        yield from missing("checkpoint", [self.checkpoint], suite.checkpoints, f"{key}.checkpoint")
        spec = suite.checkpoints.get(self.checkpoint)
        if spec is not None and spec.trigger == "none":
            yield f"{key}.checkpoint: '{self.checkpoint}' is a clean model without a trigger; name a backdoored one"

    def needs(self, suite: Suite) -> Iterable[Need]:
        """The checkpoint."""
        del suite
        return (Need(self.checkpoint),)

    def open(self, source: Source) -> Trigger:
        """The trigger, as it is stored with its checkpoint."""
        trigger = load_trigger(source.paths.checkpoint(self.checkpoint))
        if trigger is None:
            raise UserError(
                f"{source.where}: checkpoint '{self.checkpoint}' has not been made; "
                f"run: bench checkpoint {self.checkpoint} --suite {source.paths.suite}"
            )
        return trigger


class Perturbation(Options):
    """Exactly one of these.

    Attributes:
        identity: Nothing.
        noise: Gaussian noise.
        blur: Gaussian blur.
        jitter: Random changes of the colours.
        flip: Mirrored from left to right.
        patch: A square of noise in a random place.
        trigger: The trigger that was planted in a checkpoint.
    """

    identity: Identity | None = None
    noise: Noise | None = None
    blur: Blur | None = None
    jitter: Jitter | None = None
    flip: Flip | None = None
    patch: Patch | None = None
    trigger: Planted | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Perturbation":
        if len(self._given()) != 1:
            raise ValueError(f"name exactly one of {', '.join(type(self).model_fields)}")
        return self

    def open(self, source: Source) -> Change:
        """From images in [0,1] and one seed for each to changed images in [0,1].

        Args:
            source: Where the triggers of checkpoints are.
        """
        (given,) = self._given()
        return (given.open(source) if isinstance(given, Planted) else given).apply

    def _given(self) -> list[Identity | Noise | Blur | Jitter | Flip | Patch | Planted]:
        every = (self.identity, self.noise, self.blur, self.jitter, self.flip, self.patch, self.trigger)
        return [given for given in every if given is not None]
