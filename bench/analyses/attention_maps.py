"""Where the last token of a prompt looks in an image, clean and triggered, and what CleanSight hides (its figures).

The attention of one layer, the most that any head gives to each of the image's tokens, as the model has it before
anything is hidden there: that of the last layer that the defense watches, if no other is named, which is where it
chooses what to hide. Hidden tokens are crossed out. Answers are those without and with the defense.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.drawing import maps, style
from bench.analyses.drawing.pixels import from_pixel_lines, pixel_lines
from bench.analyses.subjects.cleansight import GuardedReference, settings_of
from bench.analyses.subjects.lvlms import Large, Questioned, open_larges, open_questions
from bench.analyses.subjects.references import ImageReference
from bench.defenses import cleansight
from bench.errors import UserError
from bench.lvlm.answering import encode, inputs_of
from bench.lvlm.attention import opened

_VERSIONS = ("clean", "triggered")
_COLUMNS = ("model", "row", "version", "part", "place", "weight", "hidden", "distance", "flagged")
_TEXTS = ("question", "answer", "defended", "pixels")


class Options(ImageReference):
    """Which questions and which models.

    Attributes:
        rows: Places of the questions in their split.
        models: By the name of their row.
        layer: Which layer of the decoder, counted from 0; the last that the defense watches if not given.
    """

    rows: tuple[int, ...] = Field(default=(0,), min_length=1)
    models: dict[str, GuardedReference] = Field(min_length=1)
    layer: int | None = Field(default=None, ge=0)


class Seen:
    """An edit of attention that notes one layer's before CleanSight changes anything there."""

    def __init__(self, watch: cleansight.Watch, layer: int) -> None:
        """Note what the prompt's last token gives, in ``layer``, and let ``watch`` do the rest."""
        self._watch, self._layer = watch, layer
        self.weights = torch.empty(0)

    def __call__(self, layer: int, scores: Tensor) -> Tensor:
        """What ``watch`` makes of the scores."""
        if layer == self._layer:
            self.weights = scores[:, :, -1].float().softmax(dim=-1).amax(dim=1)
        return self._watch(layer, scores)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each token of each image, one for each line of its pixels, and one for what was told about it.

    ``part`` is ``attention`` with ``weight`` and ``hidden``, ``image`` with ``pixels``, or ``told`` with the question,
    the answer without and with the defense, and the defense's ``distance`` and whether it ``flagged`` the question.
    """
    sample, found = open_questions(source, options), list[dict[str, Any]]()
    for large in open_larges(source, options.models):
        depth, settings = len(large.victim.lvlm.layers), settings_of(large.parts)
        layer = cleansight.detection_layers(settings, depth)[-1] if options.layer is None else options.layer
        if layer >= depth:
            raise UserError(f"{source.where}.options.layer: {layer} is beyond the {depth} layers of the decoder")
        for number, row in enumerate(options.rows):
            one = sample.only(row, f"{source.where}.options.rows.{number}")
            for version in _VERSIONS:
                place = {"model": large.name, "row": row, "version": version}
                found += [place | part for part in _parts(large, one, layer, planted=version == "triggered")]
    return pd.DataFrame(found, columns=[*_COLUMNS, *_TEXTS])


def _parts(large: Large, one: Questioned, layer: int, *, planted: bool) -> Iterator[dict[str, Any]]:
    """All lines of one image of one model."""
    trigger = large.trigger if planted else None
    (batch,) = one.batches(trigger)
    for place, line in enumerate(pixel_lines(batch.images[0])):
        yield {"part": "image", "place": place, "pixels": line}
    weights, watch = attention(large, one, layer, planted=planted)
    for place, (weight, hidden) in enumerate(weights):
        yield {"part": "attention", "place": place, "weight": weight, "hidden": hidden}
    (answer,), (defended,) = (one.told(model, large.target, trigger).texts for model in (large.victim, large.model))
    yield {
        "part": "told",
        "question": batch.texts[0],
        "answer": answer,
        "defended": defended,
        "distance": watch.distances[0].item(),
        "flagged": bool(watch.alarms[0]),
    }


@torch.no_grad()
def attention(
    large: Large, one: Questioned, layer: int, *, planted: bool
) -> tuple[list[tuple[float, bool]], cleansight.Watch]:
    """The weight of each of the image's tokens and whether it is hidden, and the watch that saw the prompt.

    Args:
        large: CleanSight on a backdoored model.
        one: One question.
        layer: Which layer of the decoder.
        planted: Whether the image carries the trigger.
    """
    (batch,), lvlm = one.batches(large.trigger if planted else None), large.victim.lvlm
    encoded = encode(lvlm, batch.texts)
    assert large.model.guard is not None
    watch = cast(cleansight.Watch, large.model.guard(encoded))
    seen = Seen(watch, layer)
    with opened(lvlm, seen):
        lvlm.model(**inputs_of(lvlm, batch.images, encoded))
    image = encoded.ids[0] == lvlm.image_token_id
    return list(zip(seen.weights[0, image].tolist(), watch.hidden[0, image].tolist(), strict=True)), watch


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """One row for each model and question: image, attention, and what is hidden; first clean, then triggered."""
    del options
    rows = frame[["model", "row"]].drop_duplicates().to_numpy().tolist()
    picture = style.figure(11.2, 0.4 + 2.15 * len(rows))
    axes = picture.subplots(len(rows), 3 * len(_VERSIONS), squeeze=False)
    # One scale for all maps, or a flat one would look as sharp as a peaked one.
    scale = Normalize(0, float(frame["weight"].max()))
    for line, (model, row) in enumerate(rows):
        for column, version in enumerate(_VERSIONS):
            found = frame[(frame["model"] == model) & (frame["row"] == row) & (frame["version"] == version)]
            image, own, hidden = axes[line][3 * column : 3 * column + 3]
            pixels = from_pixel_lines(found.loc[found["part"] == "image", "pixels"])
            tokens = found[found["part"] == "attention"]
            weights, crossed = tokens["weight"].to_numpy(float), tokens["hidden"].to_numpy(bool)
            (told,) = found[found["part"] == "told"].to_dict("records")
            style.show(image, pixels)
            maps.draw_map(own, pixels, weights, scale, np.zeros_like(crossed))
            maps.draw_map(hidden, pixels, weights, scale, crossed)
            flagged = f"{'flagged' if told['flagged'] else 'not flagged'} ({told['distance']:.1f})"
            headings = (version, "attention", "with CleanSight")
            texts = (told["question"], maps.said(told["answer"]), f"{maps.said(told['defended'])}\n{flagged}")
            for axis, heading, text in zip((image, own, hidden), headings, texts, strict=True):
                axis.set_title(heading if line == 0 else "")
                axis.set_xlabel(maps.wrapped(text), fontsize=8)
        axes[line][0].set_ylabel(model, fontweight="bold")
    bar = picture.colorbar(
        ScalarMappable(scale, maps.COLOURS), ax=axes, shrink=0.6 if len(rows) > 1 else 0.9, aspect=30
    )
    bar.set_label("attention of the last token, largest of all heads")
    return picture
