"""Trains a small CLIP from scratch on the image-caption pairs of a dataset, moved and mirrored at random."""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.clip.contrastive import ContrastiveOptions, pair_loss, train_contrastive
from bench.clip.model import Clip
from bench.datasets.store import Split
from bench.progress import track


class PairsOptions(ContrastiveOptions):
    """How to train on the pairs of a dataset.

    Attributes:
        steps: Batches in all, each drawn anew from all pairs: the time does not grow with the dataset.
        shift: Images are moved by up to so many pixels each way, with black where nothing was.
        mirror: Mirror half of the images, left to right.
        seed: Of the first weights and of all that is drawn.
    """

    learning_rate: float = 1e-3
    batch_size: int = Field(default=128, gt=1)
    warmup_steps: int = 200
    steps: int = Field(gt=0)
    shift: int = Field(default=4, ge=0)
    mirror: bool = True
    seed: int = 1


def pretrain_on_pairs(pairs: Split, options: PairsOptions, clip: Clip) -> None:
    """Train ``clip`` in place; the same options give the same weights on the same machine.

    Args:
        pairs: Images of the model's size, with one caption each.
        options: The recipe.
        clip: A small CLIP that knows the words of the captions.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    ids = clip.tokenize(list(pairs.captions))

    def batches() -> Iterator[tuple[Tensor, ...]]:
        stream = torch.Generator().manual_seed(options.seed)
        for _ in track(range(options.steps), f"pretrain '{clip.architecture}'"):
            rows = torch.randint(len(ids), (options.batch_size,), generator=stream)
            yield varied(pairs.batch(rows.tolist()), options.shift, options.mirror, stream), ids[rows]

    train_contrastive(clip.model, batches(), lambda batch: pair_loss(clip, *batch), options, options.steps)


def varied(images: Tensor, shift: int, mirror: bool, stream: torch.Generator) -> Tensor:
    """``images`` ``(n, 3, h, w)``, each moved by up to ``shift`` pixels and, if ``mirror``, mirrored by chance."""
    height, width = images.shape[-2:]
    padded = functional.pad(images, (shift,) * 4)
    corners = torch.randint(0, 2 * shift + 1, (len(images), 2), generator=stream).tolist()
    moved = [
        image[:, top : top + height, left : left + width] for image, (top, left) in zip(padded, corners, strict=True)
    ]
    flipped = torch.rand(len(images), generator=stream) < 0.5
    return torch.stack(
        [image.flip(-1) if mirror and flip else image for image, flip in zip(moved, flipped, strict=True)]
    )
