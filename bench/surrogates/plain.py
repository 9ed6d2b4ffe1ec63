"""Zero-shot classification by any CLIP of open_clip, without the stages that defenses need."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.clip.classifier import Classifier, sentences
from bench.clip.defended import Task
from bench.clip.model import Clip, normalise
from bench.device import compute_device


def zero_shot(clip: Clip, task: Task) -> Classifier:
    """The classifier that compares images with the prompts of ``task``; images of another size are resized in it.

    Args:
        clip: Any model with open_clip's ``encode_image`` and ``encode_text``.
        task: The classes.
    """
    there = compute_device()
    model: Any = clip.model.to(there).eval().requires_grad_(False)
    with torch.no_grad():
        ids = clip.tokenize(sentences(task.class_names, task.template)).to(there)
        texts = functional.normalize(model.encode_text(ids), dim=-1)
    size = (clip.image_size, clip.image_size)

    def logits(images: Tensor) -> Tensor:
        if images.shape[-2:] != size:
            images = functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        embeddings = functional.normalize(model.encode_image(normalise(clip, images)), dim=-1)
        return model.logit_scale.exp() * embeddings @ texts.T

    return Classifier(logits, len(task.class_names), [model])
