"""Captions as what images are to be matched with: the gallery of a split, and where an image's own captions rank."""

from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from bench.datasets.store import Split
from bench.errors import UserError


class Gallery(NamedTuple):
    """All different sentences of a split.

    Attributes:
        sentences: Each once, however many images share it.
        own: Places of every image's own captions among them, ``(images, captions per image)``.
    """

    sentences: list[str]
    own: Tensor


def gallery_of(split: Split, per_image: int, where: str) -> Gallery:
    """The first ``per_image`` captions of every image of ``split``.

    Args:
        split: Images with captions.
        per_image: How many captions each image has; more are left out, as is usual for COCO.
        where: Dataset and split, for messages.

    Raises:
        UserError: There are no captions, captions of images that are missing, or images with too few captions.
    """
    owners = split.owners.tolist() or list(range(len(split.captions)))
    captions: list[list[str]] = [[] for _ in range(len(split.images))]
    if not owners:
        raise UserError(f"{where} has no captions; name a dataset with captions, such as flickr30k")
    if len(owners) != len(split.captions):
        raise UserError(f"{where} has {len(split.captions)} captions for {len(owners)} owners; fetch it again")
    if max(owners) >= len(captions):
        absent = len({owner for owner in owners if owner >= len(captions)})
        raise UserError(f"{where} has captions of {absent} images that are missing; fetch it again")
    for caption, owner in zip(split.captions, owners, strict=True):
        captions[owner].append(caption)
    lacking = [row for row, own in enumerate(captions) if len(own) < per_image]
    if lacking:
        raise UserError(
            f"{where} has {len(lacking)} images with fewer than {per_image} captions, first image {lacking[0]} with "
            f"{len(captions[lacking[0]])}; fetch it again, or lower captions_per_image"
        )
    kept = [own[:per_image] for own in captions]
    place = {sentence: row for row, sentence in enumerate(dict.fromkeys(chain.from_iterable(kept)))}
    return Gallery(list(place), torch.tensor([[place[sentence] for sentence in own] for own in kept]))


def ranks(similarities: Tensor, own: Tensor) -> Tensor:
    """How many sentences of others come before the best own caption of each image, ``(n,)``; 0 is the best.

    A foreign sentence that is just as similar comes first, so a model that cannot tell sentences apart finds nothing.

    Args:
        similarities: ``(n, sentences)``.
        own: Places of each image's own captions, ``(n, captions per image)``.
    """
    best = similarities.gather(1, own).amax(dim=1, keepdim=True)
    foreign = torch.ones_like(similarities, dtype=torch.bool).scatter(1, own, value=False)
    # Written this way round, NaN comes before everything.
    return (foreign & ~(similarities < best)).sum(dim=1)
