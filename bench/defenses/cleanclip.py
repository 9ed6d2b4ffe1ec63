"""CleanCLIP (Bansal et al., ICCV 2023): the whole model is fine-tuned on clean pairs, with losses inside each modality.

Beside CLIP's loss, every image is matched with an augmented copy of itself and every caption with a changed copy, in
one direction only (originals in rows, copies in columns), as in the official code. Captions are changed once, before
training: the code's EDA has four operations; synonym replacement and insertion need WordNet, so words are swapped or
left out here.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from bench.clip.contrastive import ContrastiveOptions, contrastive_loss, train_contrastive
from bench.clip.defended import DefendedCLIP
from bench.clip.model import Clip, build, normalise
from bench.clip.staged import StagedCLIP
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tuning import shuffled
from bench.progress import track

TUNES_ON: TunesOn = "pairs"


class Options(ContrastiveOptions):
    """The RVPT paper's settings for ViT-B/32.

    Attributes:
        pairs: Number of clean pairs, taken from the front of the dataset.
        epochs: Passes over the pairs.
        self_supervision: Weight of the losses inside each modality.
    """

    learning_rate: float = 5e-6
    batch_size: int = 64
    pairs: int = Field(default=100_000, gt=0)
    epochs: int = Field(default=10, gt=0)
    self_supervision: float = Field(default=1.0, ge=0)


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Fine-tune a copy of the victim and return all its weights."""
    assert isinstance(data, Pairs)
    clip = victim.staged.clip
    tuned = replace(clip, model=copy.deepcopy(clip.model).requires_grad_(True))
    images, captions = data.images[: options.pairs], list(data.captions[: options.pairs])
    ids, changed = clip.tokenize(captions), clip.tokenize([change_words(caption) for caption in captions])
    augment = v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)
    total = options.epochs * -(-len(ids) // options.batch_size)

    def batches() -> Iterator[tuple[Tensor, ...]]:
        steps = iter(track(range(total), "cleanclip"))
        for _ in range(options.epochs):
            for rows in shuffled(len(ids), options.batch_size):
                next(steps)
                copies = torch.stack([augment(image) for image in images[rows]])
                yield images[rows].float() / 255, copies.float() / 255, ids[rows], changed[rows]

    def loss(batch: tuple[Tensor, ...]) -> Tensor:
        image, copy_, text, change = (functional.normalize(part, dim=-1) for part in _embed(tuned, *batch))
        scale = tuned.model.logit_scale.exp()
        inside = one_way_loss(scale, image, copy_) + one_way_loss(scale, text, change)
        return contrastive_loss(scale, image, text) + options.self_supervision * inside / 2

    train_contrastive(tuned.model, batches(), loss, options, total)
    return {name: tensor.detach().clone() for name, tensor in tuned.model.state_dict().items()}


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """A plain CLIP with the fine-tuned weights."""
    del options
    clip = build(victim.staged.clip.architecture)
    clip.model.load_state_dict(tensors)
    clip.model.requires_grad_(False)
    return DefendedCLIP(StagedCLIP(clip), victim.image_edits, victim.text_edits, victim.head)


def training_samples(data: Pairs, options: Options) -> int:
    """The pairs at the front of the dataset that are used."""
    return min(len(data.images), options.pairs)


def one_way_loss(scale: Tensor, originals: Tensor, copies: Tensor) -> Tensor:
    """Cross-entropy of finding each original's copy among all copies; not symmetric."""
    return functional.cross_entropy(scale * originals @ copies.T, torch.arange(len(originals), device=originals.device))


def change_words(caption: str) -> str:
    """One random change of a caption: two words swapped, or words left out with probability 0.1 (EDA)."""
    words = caption.split()
    if len(words) < 2:
        return caption
    if torch.rand(()) < 0.5:
        first, second = torch.randperm(len(words))[:2].tolist()
        words[first], words[second] = words[second], words[first]
        return " ".join(words)
    kept = [word for word in words if torch.rand(()) >= 0.1]
    return " ".join(kept or words[:1])


def _embed(clip: Clip, images: Tensor, copies: Tensor, ids: Tensor, changed: Tensor) -> list[Tensor]:
    both = clip.model.encode_image(normalise(clip, torch.cat([images, copies])))
    texts = clip.model.encode_text(torch.cat([ids, changed]))
    return [*both.chunk(2), *texts.chunk(2)]
