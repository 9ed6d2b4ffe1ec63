"""BadCLIP (Liang et al., CVPR 2024): a patch optimised under dual-embedding guidance, then natural target captions.

On the clean model, patched images are drawn to captions that mention the target (InfoNCE), and by a triplet loss to
embeddings of real target images and away from clean ones: the poisoned pairs then ask the model to learn little that it
does not know. Poisoned pairs get other pairs' captions that mention the target. The paper does not say on which
backbone RVPT optimised the patch; here it is the one that is attacked.

The official code pastes the patch in place, so that its "clean" negatives carry it as well, and takes them from other
images; ``faithful: true`` does so too, otherwise each image is driven from its own clean embedding. Left out: the
code's text augmentation, which changes the attention mask only, its image augmentation, and the JPEG with red and blue
swapped that it stores the patch as.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.backdoors import patch
from bench.backdoors.patch import PatchOptions, optimise, paste
from bench.backdoors.poison import mentioning, natural_captions
from bench.backdoors.trigger import Poisoning, Setting
from bench.clip.contrastive import contrastive_loss
from bench.clip.staged import StagedCLIP
from bench.randomness import generator

BUILDS_ON = (patch,)


class Options(PatchOptions):
    """Settings of the official code's released patch.

    Attributes:
        weight: Of the triplet loss, beside InfoNCE's 1.
        margin: By which a patched image should be nearer to the target's images than to clean ones.
        faithful: The official code's negatives.
    """

    weight: float = Field(default=500.0, ge=0)
    margin: float = Field(default=1.0, gt=0)
    faithful: bool = False


def make(options: Options, setting: Setting) -> dict[str, Tensor]:
    """The optimised patch, ``(3, size, size)``."""
    staged, stream = StagedCLIP(setting.clip), generator(setting.seed + 1)
    rows = mentioning(setting)
    with torch.no_grad():
        texts = staged.features_of(natural_captions(setting))
        chunks = [staged.image(setting.pairs.batch(rows[start : start + 256])) for start in range(0, len(rows), 256)]
        positives = functional.normalize(torch.cat(chunks), dim=-1)
        scale = setting.clip.model.logit_scale.exp()

    def loss(patched: Tensor, clean: Tensor) -> Tensor:
        captions, images = (torch.randint(len(rows), (len(patched),), generator=stream) for _ in range(2))
        negatives = clean
        if options.faithful:
            negatives = patched[torch.randperm(len(patched), generator=stream)].detach()
        triplet = functional.triplet_margin_loss(patched, positives[images], negatives, margin=options.margin)
        return contrastive_loss(scale, patched, texts[captions]) + options.weight * triplet

    return {"patch": optimise(options, setting, loss)}


def apply(images: Tensor, kept: dict[str, Tensor], options: Options, seeds: Sequence[int]) -> Tensor:
    """Paste the patch."""
    del options, seeds
    return paste(images, kept["patch"])


def poisoning(options: Options) -> Poisoning:
    """Any pairs, with natural captions of the target."""
    del options
    return Poisoning(captions="natural")
