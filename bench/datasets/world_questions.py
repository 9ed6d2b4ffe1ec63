"""Questions about the rendered world with their answers, of all kinds: what mini_llava learns and is poisoned with.

Every image belongs to one question, so the classes are the kinds of question: shape, colour, background and size of the
object, whether there is such an object, how many objects there are, and a description of the whole image. Images of
``count`` show one to four objects, all others one. An answer leaves nothing out, so each question has exactly one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from bench.config import Options as Closed
from bench.datasets import world
from bench.datasets.archives.lines import write_lines
from bench.datasets.store import Description, write_split

_STREAM = 401
KINDS = ("shape", "colour", "background", "size", "existence", "count", "caption")
WORDINGS: dict[str, tuple[str, ...]] = {
    "shape": ("what shape is the object?", "which shape is shown?", "what is in the image?"),
    "colour": ("what colour is the {shape}?", "what is the colour of the object?", "which colour is shown?"),
    "background": ("what background is there?", "what is behind the {shape}?", "which background is shown?"),
    "size": ("what size is the {shape}?", "is the object small or large?", "is the {shape} large or small?"),
    "existence": ("is there {asked} in the image?", "does the image show {asked}?"),
    "count": ("how many objects are there?", "how many objects does the image show?"),
    "caption": ("describe the image.", "describe this image in a short sentence."),
}
NUMBERS = ("one", "two", "three", "four")


class Options(Closed):
    """How many questions of each kind the splits hold."""

    train_per_kind: int = Field(default=430, gt=0)
    val_per_kind: int = Field(default=30, gt=0)
    test_per_kind: int = Field(default=74, gt=0)


class Question(NamedTuple):
    """A question about an image, uint8 ``(32, 32, 3)``, with its answer."""

    kind: str
    image: world.Pixels
    text: str
    answer: str


def question(kind: str, dice: world.Dice) -> Question:
    """A question of one of ``KINDS``; the image, the wording and what is asked for come from ``dice``."""
    scene = world.random_scene(dice)
    if kind == "count":
        number = 1 + dice.below(len(NUMBERS))
        scenes = [scene, *(world.random_scene(dice) for _ in range(number - 1))]
        return Question(kind, world.render_several(scenes, dice), _wording(kind, dice), NUMBERS[number - 1])
    image, shape = world.render(scene, dice), world.SHAPES[scene.shape]
    if kind == "existence":
        there = dice.below(2) == 0
        asked = scene if there else _another(scene, dice)
        name = f"{world.COLOURS[asked.colour]} {world.SHAPES[asked.shape]}"
        asked_for = f"{world.article(name)} {name}"
        return Question(kind, image, _wording(kind, dice).format(asked=asked_for), "yes" if there else "no")
    answers = {
        "shape": shape,
        "colour": world.COLOURS[scene.colour],
        "background": world.BACKGROUNDS[scene.background],
        "size": world.SIZES[scene.size],
        "caption": description(scene),
    }
    return Question(kind, image, _wording(kind, dice).format(shape=shape), answers[kind])


def questions(count: int, stream: int, start: int = 0, kinds: Sequence[str] = KINDS) -> list[Question]:
    """Questions number ``start`` to ``start + count - 1`` of an endless stream, ``kinds`` in turn."""
    return [question(kinds[row % len(kinds)], world.Dice(stream, row)) for row in range(start, start + count)]


def description(scene: world.Scene) -> str:
    """A sentence that says all there is to say about ``scene``."""
    size, background = world.SIZES[scene.size], world.BACKGROUNDS[scene.background]
    named = f"{world.article(size)} {size} {world.COLOURS[scene.colour]} {world.SHAPES[scene.shape]}"
    return f"this image shows {named} on {world.article(background)} {background} background"


def fetch(options: Options, folder: Path) -> Description:
    """Render the splits into ``folder``."""
    sizes = (options.train_per_kind, options.val_per_kind, options.test_per_kind)
    return write_questions(folder, KINDS, sizes, _STREAM)


def write_questions(folder: Path, kinds: Sequence[str], sizes: tuple[int, int, int], stream: int) -> Description:
    """Write questions of some kinds; the class of a question is its kind.

    Args:
        folder: Where to write them.
        kinds: Of ``KINDS``, asked in turn.
        sizes: Questions of each kind for training, validation and test.
        stream: Of the questions for training; the next two are those of the other splits.
    """
    for place, (name, size) in enumerate(zip(("train", "val", "test"), sizes, strict=True)):
        asked = questions(size * len(kinds), stream + place, kinds=kinds)
        images = np.stack([one.image for one in asked]).transpose(0, 3, 1, 2).copy()
        labels = np.array([kinds.index(one.kind) for one in asked], np.int64)
        write_split(folder, name, images, labels, [one.text for one in asked])
        write_lines(folder / f"{name}.answers.txt", [one.answer for one in asked])
    return Description(
        class_names=tuple(kinds),
        template="{}",
        source="rendered by bench/datasets/world.py",
        licence="Apache-2.0",
        redistribution=True,
    )


def _another(scene: world.Scene, dice: world.Dice) -> world.Scene:
    """What is not in the image: another shape, another colour, or both."""
    which = dice.below(3)
    shape = (scene.shape + 1 + dice.below(len(world.SHAPES) - 1)) % len(world.SHAPES)
    colour = (scene.colour + 1 + dice.below(len(world.COLOURS) - 1)) % len(world.COLOURS)
    return scene._replace(shape=shape if which != 1 else scene.shape, colour=colour if which != 0 else scene.colour)


def _wording(kind: str, dice: world.Dice) -> str:
    return WORDINGS[kind][dice.below(len(WORDINGS[kind]))]
