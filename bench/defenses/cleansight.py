"""CleanSight (CVPR 2026): a test-time defense of large vision-language models that takes no training.

A backdoor in the part between image and language makes a trigger's tokens steal the attention of the text. In layers of
the middle, the last token of the prompt compares how much it attends to the image and to the question behind it, head
by head; a prompt whose ratios lie far from those of clean ones is flagged. Of a flagged prompt, all image tokens that
any head attends to by more than ``tau`` in the last of these layers are hidden from there on, for all heads, and in all
layers while the answer is written.

As in the official code: the denominator leaves out what stands before the image, the mask holds in the last detection
layer already, and the threshold is a percentile of the very samples that gave mean and deviation. That code works on
one prompt at a time; here each row of a batch has a mask of its own.
"""

from dataclasses import replace
from math import ceil, floor

import torch
from pydantic import Field
from torch import Tensor

from bench.config import Options as Closed
from bench.defenses.contract import Tensors, TunesOn
from bench.errors import UserError
from bench.lvlm.answering import Encoded, encode, inputs_of
from bench.lvlm.attention import opened
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.questions import Questions

TUNES_ON: TunesOn = "questions"
DEFENDS = "lvlm"
_CHUNK = 64


class Options(Closed):
    """The official code's settings, as shares of the decoder's depth where it counts layers.

    Attributes:
        first: Share of the layers before the first detection layer; 10 of 32 in the official code.
        last: Share of the layers before the last detection layer; 24 of 32 in the official code.
        tau: Attention above which an image token of a flagged prompt is hidden. It is a share of all attention, so
            models with fewer image tokens than LLaVA's 576 need more.
        percentile: Percent of the calibration prompts that are not flagged.
        samples: Clean prompts to calibrate on.
    """

    first: float = Field(default=10 / 32, ge=0, lt=1)
    last: float = Field(default=24 / 32, ge=0, lt=1)
    tau: float = Field(default=0.02, gt=0)
    percentile: float = Field(default=99.0, gt=0, le=100)
    samples: int = Field(default=200, gt=1)


class Rule:
    """When a prompt is flagged, and what is hidden then."""

    def __init__(self, options: Options, depth: int, tensors: Tensors | None = None) -> None:
        """Take mean, deviation and threshold from ``tensors``; without them nothing is flagged."""
        self.layers, self.tau, self.tensors = detection_layers(options, depth), options.tau, tensors

    def distances(self, ratios: Tensor) -> Tensor:
        """How far the ratios ``(n, layers x heads)`` lie from those of clean prompts, in deviations."""
        if self.tensors is None:
            return ratios.new_zeros(len(ratios))
        mean, deviation = (self.tensors[name].to(ratios) for name in ("mean", "deviation"))
        return whitened(ratios, mean, deviation)

    def alarms(self, distances: Tensor) -> Tensor:
        """Which prompts are flagged."""
        return distances > (torch.inf if self.tensors is None else self.tensors["threshold"].item())


class Watch:
    """One batch of prompts, from the first pass to the last token of the answers."""

    def __init__(self, rule: Rule, encoded: Encoded, image_id: int) -> None:
        """Watch the prompts in ``encoded``, whose image stands where ``image_id`` does."""
        self._rule = rule
        self._image = encoded.ids == image_id
        self._question = (self._image.cumsum(dim=1) == self._image.sum(dim=1, keepdim=True)) & ~self._image
        self._found = list[Tensor]()
        self._hidden = torch.zeros_like(self._image)
        self.distances, self.alarms = torch.empty(0), torch.empty(0, dtype=torch.bool)

    @property
    def ratios(self) -> Tensor:
        """Image over question, ``(n, layers x heads)``, after the first pass."""
        return torch.cat(self._found, dim=1)

    @property
    def hidden(self) -> Tensor:
        """Which tokens of the prompts are hidden, ``(n, length)``, after the first pass."""
        return self._hidden

    def __call__(self, layer: int, scores: Tensor) -> Tensor:
        """The scores, with hidden tokens out of reach."""
        prompt = scores.shape[-2] == scores.shape[-1]
        if prompt and layer in self._rule.layers:
            weights = scores[:, :, -1].float().softmax(dim=-1)
            self._found.append(_ratio(weights, self._image, self._question))
            if layer == self._rule.layers[-1]:
                self._decide(weights)
        if prompt and layer < self._rule.layers[-1]:
            return scores
        return _without(scores, self._hidden)

    def _decide(self, weights: Tensor) -> None:
        """Flag prompts and choose what to hide, from the attention ``(n, heads, length)`` of the last token."""
        self.distances = self._rule.distances(self.ratios)
        self.alarms = self._rule.alarms(self.distances)
        stealing = (weights > self._rule.tau).any(dim=1) & self._image
        self._hidden = stealing & self.alarms[:, None]


def fit(victim: DefendedLvlm, data: Questions | None, options: Options) -> Tensors:
    """Mean and deviation of clean prompts' ratios, and the distance that few of them exceed."""
    if data is None:
        raise UserError(
            "cleansight: calibration needs clean questions; name a dataset of them under the track's 'pairs'"
        )
    found, rule, lvlm = list[Tensor](), Rule(options, len(victim.lvlm.layers)), victim.lvlm
    for start in range(0, min(options.samples, len(data.texts)), _CHUNK):
        rows = slice(start, min(start + _CHUNK, options.samples))
        encoded, images = encode(lvlm, data.texts[rows]), data.images[rows].float() / 255
        watch, seen = Watch(rule, encoded, lvlm.image_token_id), victim.shown(images, data.texts[rows])
        with torch.no_grad(), opened(lvlm, watch):
            lvlm.model(**inputs_of(lvlm, seen, encoded))
        found.append(watch.ratios)
    ratios = torch.cat(found)
    mean, deviation = ratios.mean(dim=0), ratios.std(dim=0, correction=0)
    threshold = whitened(ratios, mean, deviation).quantile(options.percentile / 100)
    return {"mean": mean, "deviation": deviation, "threshold": threshold}


def load(tensors: Tensors, victim: DefendedLvlm, options: Options) -> DefendedLvlm:
    """The model under guard."""
    rule = Rule(options, len(victim.lvlm.layers), tensors)
    return replace(victim, guard=lambda encoded: Watch(rule, encoded, victim.lvlm.image_token_id))


def detection_layers(options: Options, depth: int) -> range:
    """The layers that are watched, counted from 0; 10 to 24 of 32 with the defaults.

    Raises:
        UserError: The first lies behind the last.
    """
    first, last = ceil(options.first * depth), floor(options.last * depth)
    if first > last:
        raise UserError(f"cleansight: first {options.first} and last {options.last} leave no layer of {depth}")
    return range(first, last + 1)


def whitened(ratios: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Euclidean distance from the mean, each ratio in its deviations."""
    return ((ratios - mean) / (deviation + 1e-8)).norm(dim=1)


def _ratio(weights: Tensor, image: Tensor, question: Tensor) -> Tensor:
    """Attention on the image over that on the question, ``(n, heads)``."""
    on_image, on_question = ((weights * places[:, None]).sum(dim=-1) for places in (image, question))
    return on_image / (on_question + 1e-12)


def _without(scores: Tensor, hidden: Tensor) -> Tensor:
    """Scores with hidden tokens of the prompt at the lowest value; later tokens are never hidden."""
    if not hidden.any():
        return scores
    later = hidden.new_zeros(len(hidden), scores.shape[-1] - hidden.shape[1])
    return scores.masked_fill(torch.cat([hidden, later], dim=1)[:, None, None], torch.finfo(scores.dtype).min)
