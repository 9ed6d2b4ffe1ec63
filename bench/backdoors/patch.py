"""Patches in the middle of the image, optimised on the clean model: what TrojVQA and BadCLIP share."""

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.backdoors.poison import mentions
from bench.backdoors.trigger import Setting
from bench.clip.staged import StagedCLIP
from bench.config import Options
from bench.datasets.world import Dice
from bench.errors import UserError
from bench.progress import track


class PatchOptions(Options):
    """BadCLIP's settings, which RVPT's TrojVQA shares.

    Attributes:
        size: Side of the patch in pixels.
        images: How many images of other classes the patch is optimised on.
        epochs: Passes over them.
        batch_size: Images per step.
        learning_rate: Of Adam, on pixels in [0,1].
    """

    size: int = Field(default=16, gt=0)
    images: int = Field(default=10_000, gt=0)
    epochs: int = Field(default=50, gt=0)
    batch_size: int = Field(default=64, gt=1)
    learning_rate: float = Field(default=1e-3, gt=0)


def paste(images: Tensor, patch: Tensor) -> Tensor:
    """``images`` with ``patch`` ``(3, size, size)`` in their middle."""
    planted, size = images.clone(), patch.shape[-1]
    first = images.shape[-1] // 2 - size // 2
    planted[..., first : first + size, first : first + size] = patch
    return planted


def optimise(options: PatchOptions, setting: Setting, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A patch ``(3, size, size)`` in [0,1] with a low ``loss``, by Adam on images that do not mention the target.

    Args:
        options: Size, start and steps.
        setting: The clean model and its pairs.
        loss: From the embeddings of patched images and those of the clean ones, both normalised, to a scalar.

    Raises:
        UserError: The patch does not fit into the image, or there are fewer images than a batch.
    """
    side, staged, stream = setting.clip.image_size, StagedCLIP(setting.clip), setting.stream()
    if options.size >= side:
        raise UserError(f"trigger: a patch of size {options.size} does not fit into an image of {side} pixels")
    rows = _other_rows(setting, options.images)
    if len(rows) < options.batch_size:
        raise UserError(
            f"trigger: {len(rows)} images that do not mention '{setting.target}' do not fill one batch of "
            f"{options.batch_size}; lower trigger_options.batch_size"
        )
    patch = (0.5 + 0.25 * torch.randn(3, options.size, options.size, generator=stream)).clamp(0, 1).requires_grad_()
    optimizer = torch.optim.Adam([patch], lr=options.learning_rate)
    for _ in track(range(options.epochs), "optimise the patch"):
        order = torch.randperm(len(rows), generator=stream)
        for places in order[: len(rows) // options.batch_size * options.batch_size].split(options.batch_size):
            images = setting.pairs.batch([rows[place] for place in places.tolist()])
            with torch.no_grad():
                clean = functional.normalize(staged.image(images), dim=-1)
            patched = functional.normalize(staged.image(paste(images, patch.clamp(0, 1))), dim=-1)
            (patch.grad,) = torch.autograd.grad(loss(patched, clean), patch)
            optimizer.step()
            with torch.no_grad():
                patch.clamp_(0, 1)
    # As it will be stored in poisoned images.
    return (patch.detach() * 255).round() / 255


def _other_rows(setting: Setting, most: int) -> Sequence[int]:
    """At most so many rows, drawn at random, whose captions do not mention the target."""
    captions = setting.pairs.captions
    others = [row for row, caption in enumerate(captions) if not mentions(caption, setting.target)]
    return [others[place] for place in Dice(setting.seed, 402).order(len(others))[:most]]
