"""BDMAE (NeurIPS 2023): patches without which the model says something else are filled in by a masked autoencoder.

Two scores find them. Random masks hide most of the image each, and the autoencoder restores it: patches whose hiding
changes the answer, and patches that the restoration makes look different. Each score is then refined by hiding half of
the suspects: if the answer stays, suspicion moves from what was hidden to the rest, else the other way. The mean of
both is cut at five thresholds, and the image becomes the mean of the five restorations where anything was hidden.

All numbers are the official code's. What it calls a label is here the model's answer to the question about the image,
compared as the benchmark compares answers. It counts how many patches to hide over a whole batch; here each image has
its own count, so that batches do not matter, and a random stream of its own that starts from its pixels. The first
patch that it hides to refine a score may be none of the suspects; here all are.

The autoencoder is the published one for ImageNet (in transformers, ``facebook/vit-mae-base``; the official code has it
from its authors' demonstration). Without ``weights``, a small one is trained on clean images, which is what tables at
mini scale do.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from bench.defenses import mae, restoring
from bench.defenses.contract import Tensors, TunesOn
from bench.defenses.mae import MaeOptions
from bench.defenses.restoring import RestoringOptions
from bench.lvlm.answering import LONGEST
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.questions import Questions
from bench.lvlm.verdict import normalise
from bench.randomness import content_seeds, generator

TUNES_ON: TunesOn = "questions"
DEFENDS = "lvlm"
IGNORES_VICTIM = True
BUILDS_ON = (mae, restoring)
# Of the official code: from which score on a patch is a suspect by its looks, how far one step of refining goes, the
# thresholds, the share of patches that must stay, and how thresholds rise until that many do.
_SUSPECT, _STEP, _CUTS, _MOST, _RISE, _RISES = 0.2, 0.05, (0.6, 0.55, 0.5, 0.45, 0.4), 0.25, 0.99, 200


class Options(MaeOptions, RestoringOptions):
    """The official code's settings; those of the network are for one that is trained here.

    Attributes:
        weights: The published autoencoder: a repository of transformers, or a folder; if empty, one is trained.
        rounds: Rounds of random masks; 0 leaves the image as it is.
        masks: Random masks in each round.
        share: Share of the patches that each of them hides.
        refinements: Steps in which each score is refined.
        looks: Weight of how patches look; the rest is the answers'.
        together: How much likelier the search goes on beside what it has found.
        longest: Most tokens of an answer; fewer take less time.
    """

    weights: str = "facebook/vit-mae-base"
    rounds: int = Field(default=5, ge=0)
    masks: int = Field(default=5, gt=0)
    share: float = Field(default=0.75, gt=0, lt=1)
    refinements: int = Field(default=10, ge=0)
    looks: float = Field(default=0.5, ge=0, le=1)
    together: float = Field(default=0.5, ge=0)
    longest: int = Field(default=LONGEST, gt=0)


class Search(NamedTuple):
    """What finds the patches of a batch of images.

    Attributes:
        images: ``(n, 3, h, w)`` in [0,1].
        side: Patches along one side.
        restore: From images and hidden patches ``(n, patches)`` to images in which they are filled in.
        changed: From images to which of them get another answer than the original ones, ``(n,)``.
        streams: Random numbers for each image.
    """

    images: Tensor
    side: int
    restore: Callable[[Tensor, Tensor], Tensor]
    changed: Callable[[Tensor], Tensor]
    streams: Sequence[Generator]


def fit(victim: DefendedLvlm, data: Questions | None, options: Options) -> Tensors:
    """The autoencoder: trained to fill in clean images, or the hash of the published one.

    Raises:
        UserError: There are no images to train on, or the published weights cannot be had.
    """
    del victim
    if options.weights:
        return restoring.published(mae.published(options.weights))
    network = mae.build(options, options.seed)

    def loss(images: Tensor, stream: Generator) -> Tensor:
        return mae.loss(network, images, stream)

    return restoring.trained(restoring.train(network, data, loss, options, "bdmae"))


def load(tensors: Tensors, victim: DefendedLvlm, options: Options) -> DefendedLvlm:
    """The model behind the purification, which asks it about each image as it is, earlier defenses included."""
    if options.rounds == 0:
        return victim
    network = mae.published(options.weights) if options.weights else mae.build(options, options.seed)
    network = restoring.restored(network, tensors, "bdmae")

    def purify(images: Tensor, questions: Sequence[str]) -> Tensor:
        images = images.cpu()  # where the search is

        def asked(shown: Tensor) -> list[str]:
            return [normalise(text) for text in victim.answer(shown, questions, options.longest).texts]

        first = asked(images)

        def changed(shown: Tensor) -> Tensor:
            return torch.tensor([one != other for one, other in zip(asked(shown), first, strict=True)])

        streams = [generator(seed) for seed in content_seeds(images, options.seed)]
        search = Search(images, mae.grid(network), _restoring(network), changed, streams)
        pure = purified(search, options)
        return pure if victim.purify is None else victim.purify(pure, questions)

    return replace(victim, purify=purify)


def reads(options: Options) -> list[Path]:
    """The published weights, where they are in a folder."""
    folder = Path(options.weights)
    return sorted(path for path in folder.iterdir() if path.is_file()) if options.weights and folder.is_dir() else []


def wants(options: Options) -> list[str]:
    """The published weights, where they are neither in a folder nor in transformers' cache."""
    if not options.weights or Path(options.weights).is_dir():
        return []
    cached = (Path(HF_HUB_CACHE) / f"models--{options.weights.replace('/', '--')}").glob("snapshots/*/*")
    return [] if any(cached) else [f"bdmae.weights: {options.weights} of transformers' hub, when it is first used"]


def tuned_parameters(tensors: Tensors) -> int:
    """Numbers of the trained network."""
    return restoring.numbers(tensors)


def training_samples(data: Questions | None, options: Options) -> int:
    """Images that the network was trained on."""
    return 0 if data is None or options.weights else len(data.images)


def asks(options: Options) -> int:
    """How often the model is asked each question."""
    return 1 if options.rounds == 0 else 2 + options.rounds * options.masks + 2 * options.refinements


def purified(search: Search, options: Options) -> Tensor:
    """The images without what makes the model change its answer."""
    by_looks, by_answers = scores(search, options)
    by_looks = refined(search, by_looks, (by_looks >= _SUSPECT).sum(dim=1), options)
    # The sum is a whole number of shares of all masks; a little more keeps it from being rounded down past it.
    by_answers = refined(search, by_answers, (by_answers.sum(dim=1) + 1e-4).int(), options)
    return replaced(search, options.looks * by_looks + (1 - options.looks) * by_answers)


def scores(search: Search, options: Options) -> tuple[Tensor, Tensor]:
    """How suspicious each patch is by its looks and by the answers, ``(n, patches)`` each, of 0 to 1."""
    images, patches = search.images, search.side**2
    summed, counted = torch.zeros_like(images), torch.zeros_like(images[:, :1])
    by_looks, by_answers = images.new_zeros(len(images), patches), images.new_zeros(len(images), patches)
    for masks in random_masks(options, patches):
        for mask in masks:
            hidden = mask.expand(len(images), -1)
            filled, places = search.restore(images, hidden), mae.spread(hidden, images.shape[-2:])
            summed, counted = summed + places * filled, counted + places
            by_answers += (hidden & search.changed(filled)[:, None]) / (options.rounds * options.masks)
        # Where nothing has been hidden yet, nothing looks different.
        seen = torch.where(counted > 0, summed / counted.clamp(min=1), images)
        alike = functional.interpolate(similarity(images, seen)[:, None], size=[search.side, search.side])
        by_looks += (1 - alike.flatten(1)) / options.rounds
    return by_looks, by_answers


def random_masks(options: Options, patches: int) -> Tensor:
    """The same for all images: which patches are hidden, ``(rounds, masks, patches)``.

    The masks of a round are cut from as many random orders of the patches, so that together they hide all about equally
    often; one that goes on from one order to the next may hide a patch twice, and so fewer.
    """
    stream, each = generator(options.seed), int(options.share * patches)
    hidden = torch.zeros(options.rounds, options.masks, patches, dtype=torch.bool)
    for masks in hidden:
        order = torch.cat([torch.randperm(patches, generator=stream) for _ in masks])
        for number, mask in enumerate(masks):
            mask[order[number * each : (number + 1) * each]] = True
    return hidden


def refined(search: Search, suspicion: Tensor, counts: Tensor, options: Options) -> Tensor:
    """A score ``(n, patches)`` after hiding halves of the ``counts`` ``(n,)`` most suspicious patches of each image."""
    patches = search.side**2
    for _ in range(options.refinements if counts.any() else 0):
        suspects = _most(suspicion, counts)
        dice = torch.stack([torch.rand(patches // 2 + 1, patches, generator=stream) for stream in search.streams])
        hidden = connected(suspicion, suspects, counts.div(2, rounding_mode="floor").clamp(min=1), dice, options)
        stayed = ~search.changed(search.restore(search.images, hidden))
        step = torch.where(stayed, _STEP, -_STEP)[:, None]
        suspicion = suspicion + step * ((suspects & ~hidden).float() - hidden.float())
    return suspicion


def connected(suspicion: Tensor, suspects: Tensor, counts: Tensor, dice: Tensor, options: Options) -> Tensor:
    """Some of the ``suspects`` of each image, likelier the more suspicious they are and beside each other.

    Args:
        suspicion: ``(n, patches)``.
        suspects: Which may be chosen, ``(n, patches)``.
        counts: How many are, ``(n,)``; fewer where there are fewer suspects.
        dice: Numbers of 0 to 1, ``(n, steps, patches)``.
        options: Has the weight of being together.
    """
    chosen, side = torch.zeros_like(suspects), int(suspects.shape[1] ** 0.5)
    cross = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
    for step in range(int(torch.minimum(counts, suspects.sum(dim=1)).max())):
        beside = functional.conv2d(chosen.float().view(-1, 1, side, side), cross, padding=1).flatten(1) > 0
        weights = dice[:, step] * (suspicion + options.together * beside)
        free = suspects & ~chosen
        next_one = functional.one_hot(weights.masked_fill(~free, -torch.inf).argmax(dim=1), side**2).bool()
        chosen = chosen | (next_one & free & (step < counts)[:, None])
    return chosen


def replaced(search: Search, suspicion: Tensor) -> Tensor:
    """The images, with the mean of five restorations in the place of all that was hidden for any of them."""
    cuts = torch.tensor(_CUTS).repeat(len(suspicion), 1)
    for _ in range(_RISES):
        many = (suspicion >= cuts[:, -1:]).float().mean(dim=1) >= _MOST
        cuts[many] = 1 - (1 - cuts[many]) * _RISE
    summed, counted = torch.zeros_like(search.images), torch.zeros_like(search.images[:, :1])
    for cut in cuts.T:
        hidden = suspicion >= cut[:, None]
        places = mae.spread(hidden, search.images.shape[-2:])
        summed, counted = summed + places * search.restore(search.images, hidden), counted + places
    return torch.where(counted > 0, summed / counted.clamp(min=1), search.images)


def similarity(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity (SSIM) around each pixel, ``(n, h, w)``, for images in [0,1]."""

    def mean(values: Tensor) -> Tensor:
        return gaussian_blur(values, [11, 11], [1.5, 1.5])

    first, second = mean(images), mean(others)
    variances = mean(images**2) - first**2 + mean(others**2) - second**2
    common = mean(images * others) - first * second
    means, bends = 0.01**2, 0.03**2
    alike = (2 * first * second + means) * (2 * common + bends)
    return (alike / ((first**2 + second**2 + means) * (variances + bends))).mean(dim=1)


def _restoring(network: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, hidden: mae.restored(network, images, hidden)


def _most(suspicion: Tensor, counts: Tensor) -> Tensor:
    """Which patches are the ``counts`` ``(n,)`` most suspicious of each image."""
    order = suspicion.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1) < counts[:, None]
