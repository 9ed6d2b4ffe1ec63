"""Label Consistent (Turner et al., 2019): only pairs that mention the target are poisoned, and keep their caption.

BadNet's square goes on images whose caption mentions the target, so nothing looks wrong. Turner et al. first perturb
these images adversarially, so that their content no longer explains the caption and the square has to; test images get
the square alone. The default is theirs (16/255). RVPT's figures are of "BadNet-LC", CleanCLIP's variant without any
perturbation: ``perturbation: 0``. Turner et al. perturb away from the label; here it is away from the pair's own
caption (or, label-free, from the image's own embedding), measured on the clean model. Steps and step size are ours:
20 steps, by Madry et al.'s rule of 2.5 eps over steps.

CleanCLIP's script looks the target up as a case-sensitive substring, so "bananas" counts and "Banana" does not;
``substring: true`` does so too.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.attacks.pgd import ascend
from bench.backdoors import badnet
from bench.backdoors.trigger import Poisoning, Setting
from bench.clip.staged import StagedCLIP
from bench.randomness import draw_each

BUILDS_ON = (badnet,)
make, apply = badnet.make, badnet.apply


class Options(badnet.Options):
    """BadNet's, and how training images are perturbed.

    Attributes:
        perturbation: Largest change of a pixel before the square is pasted, in /255; 0 for none.
        steps: Steps of sign-gradient ascent.
        away_from: ``caption`` (the pair's own) or ``image`` (the clean image's embedding).
        substring: Look the target up as a case-sensitive substring instead of a whole word in any case.
    """

    perturbation: float = Field(default=16.0, ge=0)
    steps: int = Field(default=20, gt=0)
    away_from: Literal["caption", "image"] = "caption"
    substring: bool = False


def poisoning(options: Options) -> Poisoning:
    """Pairs that mention the target, with the captions they have."""
    return Poisoning(mention="substring" if options.substring else "word", captions="kept")


def prepare(
    images: Tensor, options: Options, setting: Setting, captions: Sequence[str], seeds: Sequence[int]
) -> Tensor:
    """Perturb training images, so that the clean model no longer sees in them what their captions say."""
    if options.perturbation == 0:
        return images
    eps, staged = options.perturbation / 255, StagedCLIP(setting.clip)
    with torch.no_grad():
        anchors = staged.features_of(list(captions)) if options.away_from == "caption" else staged.image(images)

    def loss(candidates: Tensor) -> Tensor:
        return -functional.cosine_similarity(staged.image(candidates), anchors).sum()

    # The cosine of an image with itself has no slope, so the ascent starts beside it.
    noise = draw_each(seeds, lambda stream: torch.empty(images.shape[1:]).uniform_(-eps, eps, generator=stream))
    start = (images + noise.to(images)).clamp(0, 1)
    return ascend(loss, images, start, eps, 2.5 * eps / options.steps, options.steps)
