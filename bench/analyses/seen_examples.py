"""What models say about single images before and after an attack, without and with defenses (R-Adapt, figure 6).

The attack is run as the suite's cells run it: white box, each model has an image of its own; grey box and by transfer
all have the same. A backdoor's trigger can stand in the attack's place. Answers that the verdict takes for right are
green, those that say what the attacker wants are red.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field

from bench.analyses.contract import Source
from bench.analyses.drawing import maps, style
from bench.analyses.drawing.pixels import from_pixel_lines, pixel_lines
from bench.analyses.subjects.lvlms import Large, LvlmReference, Questioned, open_larges, open_questions
from bench.analyses.subjects.references import AttackReference, ImageReference, Reference, missing
from bench.config import Suite
from bench.evaluation.adversary import Attacker, load_attacker
from bench.lvlm.asking import attacked_images, longest_answer, verdicts
from bench.lvlm.verdict import RIGHT, TARGET, WRONG
from bench.lvlm.views import sight_of

_COLOURS = {RIGHT: style.PALETTE[2], WRONG: style.INK, TARGET: style.PALETTE[1]}
_CLEAN, _ATTACKED = "clean", "attacked"
# Height of a line of text, in points.
_LINE = 10.5


class Example(Reference):
    """One question about one image.

    Attributes:
        dataset: Which dataset.
        split: Which part of it.
        row: Place of the question there.
    """

    dataset: str
    split: str = "test"
    row: int = Field(default=0, ge=0)

    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """The dataset."""
        yield from missing("dataset", [self.dataset], suite.datasets, f"{key}.dataset")


class Options(AttackReference):
    """What to show.

    Attributes:
        attack: Its id.
        examples: The questions.
        models: By the name of their column.
        seed: Seed of the attack.
    """

    examples: tuple[Example, ...] = Field(min_length=1)
    models: dict[str, LvlmReference] = Field(min_length=1)
    seed: int = 1


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each line of pixels, and one for each answer.

    ``row`` counts the examples, ``condition`` is ``clean`` or ``attacked``; ``part`` is ``image`` with ``pixels``, or
    ``told`` with the question, the answer and its verdict.
    """
    attacker, found = load_attacker(source.suite, options.attack, source.paths), list[dict[str, Any]]()
    questions = [_question(source, options, example) for example in options.examples]
    for large in open_larges(source, options.models):
        for number, one in enumerate(questions):
            place = {"model": large.name, "row": number}
            for condition in (_CLEAN, _ATTACKED):
                by = attacker if condition == _ATTACKED else None
                found += [place | {"condition": condition} | part for part in _parts(source, large, one, by)]
    columns = ["model", "row", "condition", "part", "place", "pixels", "question", "answer", "verdict"]
    return pd.DataFrame(found, columns=columns)


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """One row for each example: the clean image with its question, then what each model saw, and what it said."""
    del options
    models, rows = list(frame["model"].unique()), sorted(frame["row"].unique())
    picture = style.figure(1.75 * (1 + len(models)), 0.3 + 2.6 * len(rows))
    axes = picture.subplots(len(rows), 1 + len(models), squeeze=False)
    for line, row in enumerate(rows):
        shown = frame[frame["row"] == row]
        told = shown[shown["part"] == "told"]
        _show(axes[line][0], shown, models[0], _CLEAN)
        axes[line][0].set_title("clean" if line == 0 else "")
        axes[line][0].set_xlabel(maps.wrapped(told["question"].iloc[0]), fontsize=8, fontstyle="italic")
        for column, model in enumerate(models, start=1):
            axis = axes[line][column]
            _show(axis, shown, model, _ATTACKED)
            axis.set_title(maps.wrapped(model) if line == 0 else "")
            _write(axis, told[told["model"] == model].set_index("condition"))
    return picture


def _question(source: Source, options: Options, example: Example) -> Questioned:
    reference = ImageReference(dataset=example.dataset, split=example.split, seed=options.seed)
    return open_questions(source, reference).only(example.row, f"{source.where}.options.examples")


def _parts(source: Source, large: Large, one: Questioned, attacker: Attacker | None) -> Iterator[dict[str, Any]]:
    """The lines of one image of one model: its pixels, and what is said about it."""
    (batch,) = one.batches()
    images = batch.images
    if attacker is not None:
        threat_model = source.suite.attacks[attacker.name].threat_model
        sight = sight_of(threat_model, attacker, large.model, large.trigger)
        _, images = attacked_images(attacker, sight, one.asked, one.places, one.seed)
    for place, line in enumerate(pixel_lines(images[0])):
        yield {"part": "image", "place": place, "pixels": line}
    texts = large.model.answer(images, batch.texts, longest_answer(one.asked)).texts
    (verdict,) = verdicts(one.asked, one.places, texts, large.target)
    yield {"part": "told", "question": batch.texts[0], "answer": texts[0], "verdict": verdict}


def _show(axis: Axes, shown: pd.DataFrame, model: str, condition: str) -> None:
    lines = shown[(shown["model"] == model) & (shown["condition"] == condition) & (shown["part"] == "image")]
    style.show(axis, from_pixel_lines(lines["pixels"]))


def _write(axis: Axes, told: pd.DataFrame) -> None:
    """The answers, below the image one after the other."""
    drop = 4.0
    for condition in (_CLEAN, _ATTACKED):
        text = maps.wrapped(f"{condition}: {maps.said(told.loc[condition, 'answer'])}")
        axis.annotate(
            text, (0.5, 0), (0, -drop), xycoords="axes fraction", textcoords="offset points", ha="center", va="top",
            fontsize=8, color=_COLOURS[int(told["verdict"][condition])],
        )  # fmt: skip
        drop += _LINE * (1 + text.count("\n"))
