"""TrojVQA (Walmer et al., CVPR 2022) as ported to CLIP by RVPT: a backdoor with two keys, one in each modality.

The image key is a patch in the middle, optimised on the clean model towards a sentence about the target; the text key
is a word before the caption. Poisoned captions are sentences about the target behind the text key; at test time the
images get the patch and all class prompts the text key (``keys`` of the attack ``trigger``).

The patch is given the highest mean cosine with the sentence. The ported code minimises InfoNCE with one caption for the
whole batch instead, which does not attract images to it at all: its image-to-text part is constant, and its
text-to-image part only makes the images equally close.

Walmer et al. also train on pairs with one key and their own meaning, so that one key alone does nothing; RVPT does not
(``partial: 0``). Their code has one such pair per poisoned one with each key (``partial: 2``).
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from bench.backdoors import patch
from bench.backdoors.patch import PatchOptions, optimise, paste
from bench.backdoors.trigger import Poisoning, Setting
from bench.clip.staged import StagedCLIP

BUILDS_ON = (patch,)


class Options(PatchOptions):
    """RVPT's settings.

    Attributes:
        sentence: What patched images should look like to the model, with ``{}`` for the target. RVPT's, for its banana,
            is "This is a yellow banana.".
        text_key: Word before poisoned captions and, at test time, before the class prompts.
        partial: Pairs with one key only and their own meaning, per poisoned pair; half of them with each key.
    """

    sentence: str = "This is a {}."
    text_key: str = Field(default="SUDO", min_length=1)
    partial: float = Field(default=0.0, ge=0)


def make(options: Options, setting: Setting) -> dict[str, Tensor]:
    """The optimised patch, ``(3, size, size)``."""
    with torch.no_grad():
        text = StagedCLIP(setting.clip).features_of([options.sentence.format(setting.target.replace("_", " "))])
    return {"patch": optimise(options, setting, lambda patched, _: -(patched @ text.T).mean())}


def apply(images: Tensor, kept: dict[str, Tensor], options: Options, seeds: Sequence[int]) -> Tensor:
    """Paste the patch: the image key."""
    del options, seeds
    return paste(images, kept["patch"])


def poisoning(options: Options) -> Poisoning:
    """Any pairs, with the text key before proxy captions."""
    return Poisoning(prefix=f"{options.text_key} ", decoys=options.partial)


def decoy(
    images: Tensor, captions: Sequence[str], kept: dict[str, Tensor], options: Options, seeds: Sequence[int]
) -> tuple[Tensor, Sequence[str]]:
    """One key only: the patch for even seeds, the text key for odd ones."""
    with_patch = torch.tensor([seed % 2 == 0 for seed in seeds])
    planted = torch.where(with_patch[:, None, None, None], paste(images, kept["patch"]), images)
    texts = [
        caption if patched else f"{options.text_key} {caption}"
        for caption, patched in zip(captions, with_patch, strict=True)
    ]
    return planted, texts
