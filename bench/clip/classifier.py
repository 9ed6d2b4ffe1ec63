"""Classifiers: images in [0,1] to logits with CLIP's scale."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.clip.staged import StagedCLIP
from bench.device import device_of


class Classifier(nn.Module):
    """Images ``(n, 3, h, w)`` in [0,1] to logits ``(n, classes)``.

    Every defense hands out one of these. What depends on the class names only (text features, a head) is computed once,
    when it is made, and never inside an attack step; no parameter asks for a gradient.
    """

    def __init__(self, logits: Callable[[Tensor], Tensor], classes: int, frozen: Iterable[nn.Module] = ()) -> None:
        """Wrap a function.

        Args:
            logits: From images to logits.
            classes: Number of classes.
            frozen: Modules that ``logits`` uses; they move with the classifier and stop asking for gradients.
        """
        super().__init__()
        self._logits = logits
        self.classes = classes
        self.parts = nn.ModuleList(frozen)
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images``."""
        return self._logits(images)


def sentences(class_names: Sequence[str], template: str) -> list[str]:
    """One prompt per class: ``template`` with its ``{}`` replaced, underscores in names read as spaces."""
    return [template.format(name.replace("_", " ")) for name in class_names]


def scaled_cosine(staged: StagedCLIP, images: Tensor, texts: Tensor) -> Tensor:
    """CLIP's logits: scale times cosine of image embeddings ``(n, d)`` and normalised ``texts`` ``(classes, d)``."""
    return staged.clip.model.logit_scale.exp() * functional.normalize(images, dim=-1) @ texts.T


def zero_shot(staged: StagedCLIP, class_names: Sequence[str], template: str) -> Classifier:
    """The classifier of plain CLIP: nearest prompt by cosine."""
    with torch.no_grad():
        texts = staged.features_of(sentences(class_names, template))
    return Classifier(
        lambda images: scaled_cosine(staged, staged.image(images), texts), len(class_names), [staged.clip.model]
    )


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int = 256) -> Tensor:
    """Predicted classes ``(n,)`` of images in [0,1], on the processor."""
    there = device_of(model)
    return torch.cat([model(batch.to(there)).argmax(dim=1).cpu() for batch in images.split(batch_size)])
