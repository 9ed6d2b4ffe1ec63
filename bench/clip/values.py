"""The value features of V-Attack: what each patch says by itself in a tower's last attention, in CLIP's text space.

The values of the last block, which no query has mixed yet, go through that block's output projection, the tower's last
norm and its projection; there is no residual and no class token. Before that each head mixes values with those that are
like them (self-value enhancement).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bench.clip.classifier import Classifier
from bench.clip.model import Clip
from bench.clip.staged import StagedCLIP, Trace


def enhanced(values: Tensor, heads: int) -> Tensor:
    """In each head ``softmax(V V^T / sqrt(d)) V``, for values ``(n, tokens, width)`` with heads side by side."""
    each = values.unflatten(-1, (heads, -1)).transpose(1, 2)
    weights = torch.softmax(each @ each.transpose(-1, -2) / each.shape[-1] ** 0.5, dim=-1)
    return (weights @ each).transpose(1, 2).flatten(2)


def value_features(staged: StagedCLIP, images: Tensor, *, enhance: bool = True) -> Tensor:
    """Normalised value features ``(n, patches, d)`` of a CLIP's image tower for images in [0,1] at its resolution."""
    trace, block, visual = Trace(), staged.image_blocks[-1], staged.visual
    staged.image(images, trace=trace)
    assert trace.last_input is not None
    values = staged.query_key_value(block, trace.last_input).value
    if enhance:
        values = enhanced(values, block.attn.num_heads)
    features = visual.ln_post(block.attn.out_proj(values)) @ visual.proj
    return functional.normalize(features[:, 1:], dim=-1)


def clip_view(clip: Clip, words: Sequence[str]) -> Classifier:
    """A CLIP as V-Attack sees it: images in [0,1] of any size to the cosines of ``word_view``."""
    staged, size = StagedCLIP(clip), (clip.image_size, clip.image_size)

    def values(images: Tensor) -> Tensor:
        if images.shape[-2:] != size:
            images = functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        return value_features(staged, images)

    return word_view(values, clip, words)


@torch.no_grad()
def word_view(values: Callable[[Tensor], Tensor], clip: Clip, words: Sequence[str]) -> Classifier:
    """Images to how alike each patch's value is to each word: cosines ``(n, patches, words)``.

    Args:
        values: From images to normalised value features ``(n, patches, d)``.
        clip: Its text tower reads the words.
        words: As they are, without a template.
    """
    texts = StagedCLIP(clip).features_of(list(words))
    return Classifier(lambda images: values(images) @ texts.T, len(words), [clip.model])
