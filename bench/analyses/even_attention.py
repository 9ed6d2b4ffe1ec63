"""What becomes of a backdoor when the attention on the image is evened out (CleanSight: why triggers work).

In every layer and head, the attention on the image's tokens is mixed with the same amount spread evenly over them: the
strength 0 leaves it as it is, 1 gives no token of the image more than any other. How much falls on the image
altogether, and all attention on text, stay what they were. The paper finds that attack success falls with the strength,
to nothing, while the trigger is still to be seen. Bands are 95 % intervals (Wilson).
"""

from dataclasses import replace
from typing import Any, Literal

import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.drawing import lines, style
from bench.analyses.subjects.lvlms import BackdooredReference, Large, Questioned, open_larges, open_questions, share
from bench.analyses.subjects.references import ImageReference
from bench.config import Options as Closed
from bench.lvlm.answering import Encoded
from bench.lvlm.defended import DefendedLvlm

Queries = Literal["all", "last"]
_METRICS = ("ASR", "CU")


class Panel(ImageReference):
    """Questions, and models that are asked them.

    Attributes:
        models: By the name of their line, without a guard of their own.
    """

    models: dict[str, BackdooredReference] = Field(min_length=1)


class Options(Closed):
    """What to draw.

    Attributes:
        panels: By their heading.
        strengths: How much of the attention is evened out, from 0 to 1.
        queries: Whose attention: that of ``all`` tokens, or of the ``last`` one of the prompt and those of the answer.
    """

    panels: dict[str, Panel] = Field(min_length=1)
    strengths: tuple[float, ...] = Field(default=(0, 0.25, 0.5, 0.75, 1), min_length=1)
    queries: Queries = "all"


class Evened:
    """An edit of attention (``bench.lvlm.defended.Watch``) that raises no alarms."""

    def __init__(self, image: Tensor, strength: float, queries: Queries) -> None:
        """Even out.

        Args:
            image: Which tokens of the prompts are the image's, ``(n, length)``.
            strength: From 0 to 1.
            queries: Whose attention.
        """
        self.distances, self.alarms = torch.empty(0), torch.empty(0, dtype=torch.bool)
        self._image, self._strength, self._queries = image, strength, queries

    def __call__(self, layer: int, scores: Tensor) -> Tensor:
        """The scores, more alike on the image's tokens."""
        del layer
        if self._strength == 0:
            return scores
        if self._queries == "all":
            return evened(scores, self._image, self._strength)
        return torch.cat([scores[:, :, :-1], evened(scores[:, :, -1:], self._image, self._strength)], dim=2)


def evened(scores: Tensor, image: Tensor, strength: float) -> Tensor:
    """Scores whose softmax has on the image's tokens the mixture of its own weights and their mean.

    The image's share of the exponentials' sum does not change, so that the other scores need no change.

    Args:
        scores: ``(n, heads, queries, keys)``, masked where a query may not look.
        image: Which keys are the image's, ``(n, length)``; later keys are not.
        strength: Of the mean in the mixture.
    """
    later = image.new_zeros(len(image), scores.shape[-1] - image.shape[1])
    # What is masked lies at about the lowest number, and counts neither as seen nor in the mean.
    seen = torch.cat([image, later], dim=1)[:, None, None] & (scores > torch.finfo(scores.dtype).min / 2)
    logs = scores.float().masked_fill(~seen, -torch.inf)
    mean = logs.logsumexp(dim=-1, keepdim=True) - seen.sum(dim=-1, keepdim=True).clamp(min=1).log()
    shares = torch.tensor([1 - strength, strength]).log().tolist()
    mixed = torch.logaddexp(logs + shares[0], mean + shares[1])
    return torch.where(seen, mixed.to(scores.dtype), scores)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each panel, model, strength ``x`` and metric."""
    found = list[dict[str, Any]]()
    for heading, panel in options.panels.items():
        sample = open_questions(source, panel)
        for large in open_larges(source, panel.models):
            for strength in options.strengths:
                place = {"panel": heading, "line": large.name, "x": strength, "questions": len(sample.places)}
                found += [place | one for one in rates(large, sample, strength, options.queries)]
    return pd.DataFrame(found)


def rates(large: Large, sample: Questioned, strength: float, queries: Queries) -> list[dict[str, Any]]:
    """ASR and CU of a model whose attention is evened out."""
    model = with_even_attention(large.model, strength, queries)
    asr = share("ASR", sample.told(model, large.target, large.trigger).predictions)
    return [{"kind": "ASR", **asr}, {"kind": "CU", **share("CU", sample.told(model, large.target).predictions)}]


def with_even_attention(model: DefendedLvlm, strength: float, queries: Queries) -> DefendedLvlm:
    """``model``, with its attention evened out in the place of a guard."""

    def guard(encoded: Encoded) -> Evened:
        return Evened(encoded.ids == model.lvlm.image_token_id, strength, queries)

    return replace(model, guard=guard)


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """ASR and beside it CU over the strength, one row for each panel's questions."""
    del options
    headings = list(frame["panel"].unique())
    picture, looks = style.figure(8.4, 0.9 + 2.8 * len(headings)), lines.looks(frame["line"])
    axes = picture.subplots(len(headings), len(_METRICS), squeeze=False, sharey=True)
    for row, heading in zip(axes, headings, strict=True):
        for axis, kind in zip(row, _METRICS, strict=True):
            shown = frame[(frame["panel"] == heading) & (frame["kind"] == kind)].sort_values("x", kind="stable")
            for name, points in shown.groupby("line", sort=False):
                looks.draw(axis, points, str(name))
            axis.set_title(f"{heading}: {kind}")
            axis.set_xlabel("strength")
            axis.set_xticks(sorted(shown["x"].unique()))
            lines.percent_axis(axis)
        row[0].set_ylabel("percent")
    looks.legend(picture, {})
    return picture
