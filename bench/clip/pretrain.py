"""Trains a small CLIP from scratch: on captions of the rendered world and digits, or on the pairs of a dataset."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.clip.classifier import predict, zero_shot
from bench.clip.contrastive import ContrastiveOptions, pair_loss, train_contrastive
from bench.clip.model import Clip, build, load_weights, save_weights
from bench.clip.pretrain_pairs import PairsOptions, pretrain_on_pairs
from bench.clip.small import small_architectures
from bench.clip.staged import StagedCLIP
from bench.config import Options, PretrainingSpec, parse
from bench.datasets import backgrounds, colours, digits, shape_colour, shapes, world
from bench.datasets.store import build as build_dataset
from bench.datasets.store import open_split, read_manifest
from bench.errors import unknown
from bench.files import empty_partial, replace_folder, sha256_of
from bench.processes import TRAINING_THREADS, threads
from bench.progress import track
from bench.provenance import Provenance, provenance

WEIGHTS = "weights.safetensors"
# Streams 101 to 107 hold the downstream tasks, 301 the captions that checkpoints are poisoned with, 302 and 303 the
# captioned scenes of retrieval, 401 to 403 the questions, and 1000 times a seed plus 3 what mini_llava is trained on.
_WORLD_STREAM, _DIGITS_STREAM = 1, 2
# Images that are held as floats at a time.
_CHUNK = 1024
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
        pairs: The dataset that it was trained on; empty for the rendered world and the digits.
        recipe: Settings of the training.
        zero_shot: Accuracy in percent by dataset and split; nothing was tuned on these images.
        parameters: Numbers in the model.
        sha256: Hash of the weights file.
        provenance: Commit, packages and machine.
    """

    architecture: str
    pairs: str = ""
    recipe: PretrainOptions | PairsOptions
    zero_shot: dict[str, dict[str, float]]
    parameters: int
    sha256: str
    provenance: Provenance


def recipe_of(spec: PretrainingSpec, where: str) -> PretrainOptions | PairsOptions:
    """The options of a suite's entry.

    Raises:
        UserError: It is none of the small architectures, or an option is wrong; ``where`` is the entry's file and key.
    """
    if spec.architecture not in small_architectures():
        raise unknown("small architecture", spec.architecture, small_architectures(), f"{where}.architecture")
    return parse(PairsOptions if spec.pairs else PretrainOptions, spec.options, f"{where}.options")


@threads(TRAINING_THREADS)
def pretrain_to(folder: Path, spec: PretrainingSpec, data: Path, where: str) -> PretrainCard:
    """Train a small CLIP and write ``weights.safetensors`` (float16) and ``card.json`` into ``folder``.

    Args:
        folder: Appears only when it is finished.
        spec: The suite's entry.
        data: Folder of the datasets.
        where: File and key of the entry, for messages.

    Raises:
        UserError: As ``recipe_of`` says, or the pairs have not been fetched.
    """
    options = recipe_of(spec, where)
    clip = build(spec.architecture, options.seed)
    if isinstance(options, PairsOptions):
        pretrain_on_pairs(open_split(data, read_manifest(data, spec.pairs), "train"), options, clip)
    else:
        pretrain(options, clip)
    scratch = empty_partial(folder)
    weights = scratch / WEIGHTS
    save_weights(clip, weights, torch.float16)
    clip = load_weights(clip, weights)
    card = PretrainCard(
        architecture=spec.architecture,
        pairs=spec.pairs,
        recipe=options,
        zero_shot={spec.pairs: zero_shot_accuracy(clip, data, spec.pairs)} if spec.pairs else _on_rendered(clip),
        parameters=sum(parameter.numel() for parameter in clip.model.parameters()),
        sha256=sha256_of(weights),
        provenance=provenance(),
    )
    (scratch / "card.json").write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
    replace_folder(scratch, folder)
    return card


def zero_shot_accuracy(clip: Clip, data: Path, dataset: str) -> dict[str, float]:
    """Zero-shot accuracy in percent on every test split of a fetched dataset; empty if it has no classes."""
    manifest, accuracy = read_manifest(data, dataset), dict[str, float]()
    if not manifest.description.class_names:
        return accuracy
    classifier = zero_shot(StagedCLIP(clip), manifest.description.class_names, manifest.description.template)
    for name in sorted(manifest.splits.keys() - {"train", "val"}):
        split = open_split(data, manifest, name)
        hits = [
            (predict(classifier, split.batch(rows)) == split.targets(rows)).float()
            for rows in np.array_split(np.arange(len(split.labels)), -(-len(split.labels) // _CHUNK))
        ]
        accuracy[name] = round(100 * torch.cat(hits).mean().item(), 2)
    return accuracy


def _on_rendered(clip: Clip) -> dict[str, dict[str, float]]:
    """Zero-shot accuracy on the tasks of the rendered world and on the digits."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, module in _DOWNSTREAM.items():
            build_dataset(name, module.Options(), module.fetch, Path(scratch))
        return {name: zero_shot_accuracy(clip, Path(scratch), name) for name in _DOWNSTREAM}


def pretrain(options: PretrainOptions, clip: Clip) -> Clip:
    """Train a small CLIP; the same options give the same weights on the same machine.

    Args:
        options: The recipe.
        clip: What to train in place, for 32x32 images and the mini CLIP's words.

    Returns:
        The trained model in float32.
    """
    steps = track(range(options.steps), f"pretrain '{clip.architecture}'")
    batches = _batches(clip, options, steps)
    train_contrastive(clip.model, batches, lambda batch: pair_loss(clip, *batch), options, options.steps)
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
