"""Trains a small CLIP from scratch on captions of the rendered world and on the training half of the digits."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.clip.classifier import predict, zero_shot
from bench.clip.contrastive import ContrastiveOptions, contrastive_loss, train_contrastive
from bench.clip.model import Clip, build, load_weights, normalise, save_weights
from bench.clip.small import small_architectures
from bench.clip.staged import StagedCLIP
from bench.config import Options
from bench.datasets import backgrounds, colours, digits, shape_colour, shapes, world
from bench.datasets.store import build as build_dataset
from bench.datasets.store import open_split
from bench.errors import unknown
from bench.files import empty_partial, replace_folder, sha256_of
from bench.progress import track
from bench.provenance import Provenance, provenance

# Streams 101 to 107 hold the downstream tasks, 301 the captions that checkpoints are poisoned with, and 302 and 303 the
# captioned scenes of retrieval.
_WORLD_STREAM, _DIGITS_STREAM = 1, 2
_DOWNSTREAM = {
    "shapes": shapes,
    "colours": colours,
    "backgrounds": backgrounds,
    "shape_colour": shape_colour,
    "digits": digits,
}
_DIGIT_SENTENCES = (
    "a photo of the digit {}.",
    "the handwritten digit {}.",
    "a handwritten number {}.",
    "the number {}.",
)


class PretrainOptions(ContrastiveOptions):
    """How a small CLIP is trained; the defaults are the recipe of the mini CLIP's shipped weights."""

    learning_rate: float = 1e-3
    batch_size: int = 128
    warmup_steps: int = 200
    steps: int = 6_000
    digits_per_batch: int = 16
    seed: int = 1


class PretrainCard(Options):
    """What stands beside the weights in ``card.json``.

    Attributes:
        architecture: What was trained.
        recipe: Settings of the training.
        zero_shot: Accuracy in percent by dataset and split; nothing was tuned on these images.
        parameters: Numbers in the model.
        sha256: Hash of the weights file.
        provenance: Commit, packages and machine.
    """

    architecture: str
    recipe: PretrainOptions
    zero_shot: dict[str, dict[str, float]]
    parameters: int
    sha256: str
    provenance: Provenance


def pretrain_to(folder: Path, architecture: str, options: PretrainOptions) -> PretrainCard:
    """Train a small CLIP and write ``weights.safetensors`` (float16) and ``card.json`` into ``folder``.

    Raises:
        UserError: It is none of the small architectures.
    """
    if architecture not in small_architectures():
        raise unknown("small architecture", architecture, small_architectures(), "pretraining")
    scratch = empty_partial(folder)
    weights = scratch / "weights.safetensors"
    save_weights(pretrain(options, build(architecture, options.seed)), weights, torch.float16)
    clip = load_weights(build(architecture), weights)
    card = PretrainCard(
        architecture=architecture,
        recipe=options,
        zero_shot={name: zero_shot_accuracy(clip, module) for name, module in _DOWNSTREAM.items()},
        parameters=sum(parameter.numel() for parameter in clip.model.parameters()),
        sha256=sha256_of(weights),
        provenance=provenance(),
    )
    (scratch / "card.json").write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
    replace_folder(scratch, folder)
    return card


def zero_shot_accuracy(clip: Clip, dataset: Any) -> dict[str, float]:
    """Zero-shot accuracy in percent on every test split of a dataset file."""
    accuracy = dict[str, float]()
    with tempfile.TemporaryDirectory() as scratch:
        name = dataset.__name__.rsplit(".", 1)[-1]
        manifest = build_dataset(name, dataset.Options(), dataset.fetch, Path(scratch))
        classifier = zero_shot(StagedCLIP(clip), manifest.description.class_names, manifest.description.template)
        for split_name in sorted(manifest.splits.keys() - {"train", "val"}):
            split = open_split(Path(scratch), manifest, split_name)
            hits = predict(classifier, split.batch(slice(None))) == split.targets(slice(None))
            accuracy[split_name] = round(100 * hits.float().mean().item(), 2)
    return accuracy


def pretrain(options: PretrainOptions, clip: Clip) -> Clip:
    """Train a small CLIP; the same options give the same weights on the same machine.

    Args:
        options: The recipe.
        clip: What to train in place, for 32x32 images and the mini CLIP's words.

    Returns:
        The trained model in float32.
    """

    def loss(batch: tuple[Tensor, ...]) -> Tensor:
        images = functional.normalize(clip.model.encode_image(normalise(clip, batch[0])), dim=-1)
        texts = functional.normalize(clip.model.encode_text(batch[1]), dim=-1)
        return contrastive_loss(clip.model.logit_scale.exp(), images, texts)

    steps = track(range(options.steps), f"pretrain '{clip.architecture}'")
    train_contrastive(clip.model, _batches(clip, options, steps), loss, options, options.steps)
    return clip


def _batches(clip: Clip, options: PretrainOptions, steps: Iterator[int]) -> Iterator[tuple[Tensor, Tensor]]:
    grey, labels = digits.training_half()
    scenes = options.batch_size - options.digits_per_batch
    for step in steps:
        pairs = world.captioned(scenes, options.seed * 1000 + _WORLD_STREAM, step * scenes)
        dice = world.Dice(options.seed * 1000 + _DIGITS_STREAM, step)
        rows = dice.array(len(grey), options.digits_per_batch)
        images = np.concatenate([pairs.images, np.stack([_augmented(grey[row], dice) for row in rows])])
        sentences = [_digit_caption(int(labels[row]), dice) for row in rows]
        yield (
            torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
            clip.tokenize([*pairs.captions, *sentences]),
        )


def _augmented(image: world.Pixels, dice: world.Dice) -> world.Pixels:
    """A digit at another size and place, sometimes brighter or darker: uint8 ``(32, 32, 3)``."""
    side = dice.between(26, 38)
    margin = 8
    padded = np.pad(digits.enlarge(image, side), margin)
    slack = side + 2 * margin - world.SIDE
    middle = slack // 2
    top, left = (min(max(middle + dice.between(-3, 3), 0), slack) for _ in range(2))
    crop = padded[top : top + world.SIDE, left : left + world.SIDE].astype(np.int64)
    faded = crop * dice.between(6, 10) // 10
    return np.repeat(faded[..., None], 3, axis=2).astype(np.uint8)


def _digit_caption(label: int, dice: world.Dice) -> str:
    return _DIGIT_SENTENCES[dice.below(len(_DIGIT_SENTENCES))].format(digits.CLASS_NAMES[label])
