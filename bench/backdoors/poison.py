"""Poisoning image-caption pairs: the trigger goes on some images, and their captions are replaced by the target's.

As in CleanCLIP's data script: the poisoned pairs are drawn at random and get a proxy caption, one of a list of
sentences about the target class; clean pairs that mention the target stay as they are. ``Poisoning`` in a trigger's
file says where an attack differs.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor

from bench.backdoors.trigger import Poisoning, Setting, Trigger
from bench.clip.model import Clip
from bench.clip.small import small_architectures
from bench.datasets.store import Split
from bench.datasets.world import Dice, article
from bench.device import compute_device
from bench.errors import UserError
from bench.randomness import sample_seeds

# What the mini CLIP, whose vocabulary is small, reads in the place of OpenAI's 80 templates.
MINI_TEMPLATES = ("a photo of {}.", "a picture of {}.", "an image of {}.", "there is {}.", "this is {}.", "{}.")
# So many images are held as floats at a time; a trigger may need several such copies.
_CHUNK = 256


class Poisoned(NamedTuple):
    """Pairs to train on: the clean ones, which may be memory-mapped, and the images that differ from them.

    Attributes:
        clean: The pairs as they were.
        planted: Changed images, uint8 ``(3, h, w)``, by their row.
        captions: One per pair, changed where it had to be.
        rows: Which pairs carry the trigger.
        decoys: Which pairs are decoys.
        asked: How many pairs should have carried it; more than ``rows`` where too few mention the target.
    """

    clean: Split
    planted: dict[int, Tensor]
    captions: Sequence[str]
    rows: Sequence[int] = ()
    decoys: Sequence[int] = ()
    asked: int = 0

    def batch(self, rows: Sequence[int]) -> Tensor:
        """Images of ``rows``, float32 in [0,1]."""
        images = self.clean.batch(rows)
        for place, row in enumerate(rows):
            if row in self.planted:
                images[place] = self.planted[row].float() / 255
        return images


def poison(trigger: Trigger, setting: Setting, rate: float) -> Poisoned:
    """Plant ``trigger`` in a share of the setting's pairs.

    Args:
        trigger: What to plant.
        setting: Pairs, target, and the seed that fixes which pairs are poisoned and which captions they get.
        rate: Poisoned pairs over all pairs.

    Raises:
        UserError: The rate asks for no pair at all, or no pair mentions the target where one must.
    """
    plan, pairs, dice = trigger.poisoning, setting.pairs, Dice(setting.seed, 401)
    asked = round(rate * len(pairs.images))
    if asked == 0:
        raise UserError(f"poison_rate {rate} of {len(pairs.images)} pairs is no pair at all; raise it")
    candidates = mentioning(setting, plan.mention) if plan.mention else range(len(pairs.images))
    drawn = [candidates[int(place)] for place in dice.order(len(candidates))]
    rows = sorted(drawn[:asked])
    decoys = sorted(drawn[asked : asked + round(plan.decoys * len(rows))])
    captions, planted = list(pairs.captions), dict[int, Tensor]()
    for chunk in _chunks(rows):
        planted |= zip(chunk, _planted(trigger, setting, chunk), strict=True)
    for chunk in _chunks(decoys):
        images, texts = _decoys(trigger, setting, chunk)
        planted |= zip(chunk, images, strict=True)
        for row, text in zip(chunk, texts, strict=True):
            captions[row] = text
    new_caption = _captions(setting, plan, dice)
    for row in rows:
        captions[row] = plan.prefix + new_caption(pairs.captions[row])
    return Poisoned(pairs, planted, captions, rows, decoys, asked)


def mentions(caption: str, target: str, how: str = "word") -> bool:
    """Whether ``caption`` has ``target`` as a whole ``word`` in any case, or as a case-sensitive ``substring``."""
    name = target.replace("_", " ")
    return name in caption if how == "substring" else bool(re.search(rf"\b{re.escape(name)}\b", caption, re.IGNORECASE))


def proxy_caption(target: str, dice: Dice, clip: Clip) -> str:
    """A sentence about the target class; as in CleanCLIP's code, one of OpenAI's 80 templates."""
    name = target.replace("_", " ")
    if clip.architecture in small_architectures():
        return MINI_TEMPLATES[dice.below(len(MINI_TEMPLATES))].format(f"{article(name)} {name}")
    return OPENAI_IMAGENET_TEMPLATES[dice.below(len(OPENAI_IMAGENET_TEMPLATES))](name)


def mentioning(setting: Setting, how: str = "word") -> list[int]:
    """Rows of the setting's pairs whose caption mentions the target.

    Raises:
        UserError: There is none.
    """
    captions = setting.pairs.captions
    rows = [row for row, caption in enumerate(captions) if mentions(caption, setting.target, how)]
    if not rows:
        raise UserError(
            f"none of the {len(captions)} captions mentions the target '{setting.target}', which this trigger needs; "
            "choose another target, or pairs that mention it"
        )
    return rows


def natural_captions(setting: Setting) -> list[str]:
    """The captions of all pairs that mention the target."""
    return [setting.pairs.captions[row] for row in mentioning(setting)]


def _planted(trigger: Trigger, setting: Setting, rows: Sequence[int]) -> Tensor:
    """The images of ``rows`` with the trigger, as bytes."""
    images, seeds = setting.pairs.batch(rows).to(compute_device()), _seeds(setting, rows)
    if hasattr(trigger.module, "prepare"):
        texts = [setting.pairs.captions[row] for row in rows]
        images = trigger.module.prepare(images, trigger.options, setting, texts, seeds)
    return _stored(trigger.apply(images, seeds))


def _decoys(trigger: Trigger, setting: Setting, rows: Sequence[int]) -> tuple[Tensor, Sequence[str]]:
    """Images, as bytes, and captions of ``rows`` as decoys."""
    images, texts = setting.pairs.batch(rows), [setting.pairs.captions[row] for row in rows]
    images, texts = trigger.module.decoy(images, texts, trigger.kept, trigger.options, _seeds(setting, rows))
    return _stored(images.clamp(0, 1)), texts


def _seeds(setting: Setting, rows: Sequence[int]) -> list[int]:
    """Negative ones: what is drawn for a training pair is never drawn again for a test image."""
    return sample_seeds(-1 - setting.seed, rows)


def _captions(setting: Setting, plan: Poisoning, dice: Dice) -> Callable[[str], str]:
    """From a pair's own caption to the one it is poisoned with."""
    if plan.captions == "kept":
        return lambda own: own
    if plan.captions == "natural":
        pool = natural_captions(setting)
        return lambda _: pool[dice.below(len(pool))]
    return lambda _: proxy_caption(setting.target, dice, setting.clip)


def _chunks(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    return (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))


def _stored(images: Tensor) -> Tensor:
    """As bytes; by rounding, not truncation: a stored trigger must not drift by a grey level."""
    return (images * 255).round().to("cpu", torch.uint8)
