"""The rendered world: captioned 32x32 images of one object (or a few), made from a seed.

An image shows one of 12 shapes in one of 8 colours and 2 sizes on one of 6 backgrounds. Only integer arithmetic,
exactly rounded float operations and NumPy's raw PCG64 stream are used, so the same seed gives the same bytes on every
machine (library functions such as ``sin`` or the distributions of ``numpy.random`` would not).

Styles play the part of the shifted ImageNet variants: ``photo`` is the training distribution; ``sketch`` draws the
outline in chalk on a board; ``unseen`` fills the shape with a two-tone pattern and brightens the background; ``noise``
adds pixel noise to a photo.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Style = Literal["photo", "sketch", "unseen", "noise"]
Pixels = npt.NDArray[np.uint8]
_Mask = npt.NDArray[np.bool_]
_Plane = npt.NDArray[np.float64]
_Tone = npt.NDArray[np.int64]

SIDE = 32
SHAPES = (
    "circle", "square", "triangle", "diamond", "cross", "ring",
    "star", "heart", "crescent", "arrow", "frame", "hourglass",
)  # fmt: skip
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
BACKGROUNDS = ("plain", "striped", "checkered", "dotted", "shaded", "grainy")
SIZES = ("small", "large")

_RGB = np.array(
    [(220, 40, 40), (40, 180, 60), (50, 80, 230), (235, 220, 50),
     (150, 50, 190), (240, 140, 30), (60, 210, 220), (245, 245, 245)]
)  # fmt: skip
# Rotations as (cosine, sine), written out so that no trigonometric function is called: -15, -8, 0, 8, 15 degrees.
_ROTATIONS = ((0.9659, -0.2588), (0.9903, -0.1392), (1.0, 0.0), (0.9903, 0.1392), (0.9659, 0.2588))
# Unit normals of a pentagram's five sides; a point is inside when it is behind at least four of them.
_STAR = ((0.0, 1.0), (0.9511, 0.3090), (0.5878, -0.8090), (-0.5878, -0.8090), (-0.9511, 0.3090))
_STROKE = ((-2, 0), (2, 0), (0, -2), (0, 2), (-1, 0), (1, 0), (0, -1), (0, 1))
_OVERSAMPLING = 2
_GRID = (np.arange(SIDE * _OVERSAMPLING, dtype=np.float64) + 0.5) / _OVERSAMPLING
_ROWS, _COLUMNS = np.arange(SIDE)[:, None], np.arange(SIDE)[None, :]


class Scene(NamedTuple):
    """What one image shows, as indices into ``SHAPES``, ``COLOURS``, ``BACKGROUNDS`` and ``SIZES``."""

    shape: int
    colour: int
    background: int
    size: int


class Dice:
    """Whole random numbers from NumPy's raw bit stream, which (unlike its distributions) never changes."""

    def __init__(self, *seed: int) -> None:
        """Start the stream that belongs to ``seed``; equal seeds give equal streams."""
        self._bits = np.random.PCG64(np.random.SeedSequence(seed))

    def below(self, bound: int) -> int:
        """One number from 0 to ``bound - 1``."""
        return int(self._bits.random_raw()) % bound

    def between(self, low: int, high: int) -> int:
        """One number from ``low`` to ``high``, both included."""
        return low + self.below(high - low + 1)

    def array(self, bound: int, *shape: int) -> npt.NDArray[np.int64]:
        """Numbers from 0 to ``bound - 1`` in an array of the given shape."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        return (raw % np.uint64(bound)).astype(np.int64).reshape(shape)

    def order(self, count: int) -> npt.NDArray[np.int64]:
        """A random order of ``range(count)``."""
        return np.argsort(self._bits.random_raw(count), kind="stable")


def random_scene(dice: Dice) -> Scene:
    """A scene with every attribute drawn evenly."""
    return Scene(*(dice.below(len(names)) for names in (SHAPES, COLOURS, BACKGROUNDS, SIZES)))


def render(scene: Scene, dice: Dice, style: Style = "photo") -> Pixels:
    """Draw ``scene``; place, tilt and tones come from ``dice``.

    Returns:
        uint8 pixels of shape ``(32, 32, 3)``.
    """
    coverage = _coverage(scene, dice)
    if style == "sketch":
        return _sketch(coverage, dice)
    ground = _background(BACKGROUNDS[scene.background], dice, bright=style == "unseen")
    paint = np.clip(_RGB[scene.colour] + dice.array(31, 3) - 15, 0, 255)
    if style == "unseen":
        tiles = ((_ROWS // 2 + _COLUMNS // 2) % 2)[..., None]
        paint = np.where(tiles == 1, paint, paint * 6 // 10)
    full = _OVERSAMPLING**2
    pixels = (ground * (full - coverage) + paint * coverage + full // 2) // full
    if style == "noise":
        pixels = np.clip(pixels + dice.array(121, SIDE, SIDE, 3) - 60, 0, 255)
    return pixels.astype(np.uint8)


def render_several(scenes: Sequence[Scene], dice: Dice) -> Pixels:
    """Draw up to four objects, each in a quarter of its own, on the background of the first; sizes are not looked at.

    Returns:
        uint8 pixels of shape ``(32, 32, 3)``.
    """
    pixels, full = _background(BACKGROUNDS[scenes[0].background], dice, bright=False), _OVERSAMPLING**2
    for scene, quarter in zip(scenes, dice.order(4), strict=False):
        radius = dice.between(5, 7)
        middle_x, middle_y = (
            SIDE // 4 * (1 + 2 * side) + dice.between(radius - 7, 7 - radius)
            for side in (int(quarter) % 2, int(quarter) // 2)
        )
        coverage = _covered(scene, dice, radius, middle_x, middle_y)
        paint = np.clip(_RGB[scene.colour] + dice.array(31, 3) - 15, 0, 255)
        pixels = (pixels * (full - coverage) + paint * coverage + full // 2) // full
    return pixels.astype(np.uint8)


def caption(scene: Scene, dice: Dice) -> str:
    """A sentence about ``scene``; like web captions it leaves out some of what there is to see."""
    words = [_SUBJECTS[dice.below(len(_SUBJECTS))]] if dice.below(12) == 0 else [SHAPES[scene.shape]]
    if dice.below(4) != 0:
        words.insert(0, COLOURS[scene.colour])
    if dice.below(2) == 0:
        words.insert(0, SIZES[scene.size])
    words.insert(0, article(words[0]))
    if dice.below(3) != 0:
        background = BACKGROUNDS[scene.background]
        words += ["on", article(background), background, "background"]
    return SENTENCES[dice.below(len(SENTENCES))].format(" ".join(words))


def article(word: str) -> str:
    """``a`` or ``an``."""
    return "an" if word[0] in "aeiou" else "a"


_SUBJECTS = ("object", "thing")
SENTENCES = ("a photo of {}.", "a picture of {}.", "an image of {}.", "there is {}.", "{}.", "this is {}.")


@dataclass(frozen=True)
class Captioned:
    """Images with their sentences: ``images`` is uint8 ``(n, 32, 32, 3)``; ``scenes`` says what each shows."""

    images: Pixels
    captions: Sequence[str]
    scenes: Sequence[Scene]


def captioned(count: int, seed: int, start: int = 0) -> Captioned:
    """Captioned photos number ``start`` to ``start + count - 1`` of the endless stream that belongs to ``seed``."""
    images, captions, scenes = np.empty((count, SIDE, SIDE, 3), np.uint8), list[str](), list[Scene]()
    for row in range(count):
        dice = Dice(seed, start + row)
        scenes.append(random_scene(dice))
        images[row] = render(scenes[-1], dice)
        captions.append(caption(scenes[-1], dice))
    return Captioned(images, captions, scenes)


def _coverage(scene: Scene, dice: Dice) -> _Tone:
    """How much of each pixel the object covers, 0 to ``_OVERSAMPLING ** 2``, as ``(32, 32, 1)``."""
    radius = dice.between(*((6, 8), (10, 13))[scene.size])
    reach = SIDE // 2 - 1 - radius
    middle_x, middle_y = (SIDE // 2 + dice.between(-reach, reach) for _ in range(2))
    return _covered(scene, dice, radius, middle_x, middle_y)


def _covered(scene: Scene, dice: Dice, radius: int, middle_x: int, middle_y: int) -> _Tone:
    """What the object covers if its middle is there, as ``_coverage``."""
    cosine, sine = _ROTATIONS[dice.below(len(_ROTATIONS))]
    x, y = (_GRID[None, :] - middle_x) / radius, (_GRID[:, None] - middle_y) / radius
    inside = _inside(SHAPES[scene.shape], x * cosine + y * sine, y * cosine - x * sine)
    blocks = inside.reshape(SIDE, _OVERSAMPLING, SIDE, _OVERSAMPLING)
    return blocks.sum(axis=(1, 3), dtype=np.int64)[..., None]


def _inside(shape: str, x: _Plane, y: _Plane) -> _Mask:
    """Whether each point of the unit square lies inside ``shape``; y points down."""
    wide, high, square = np.abs(x), np.abs(y), x * x + y * y
    longest = np.maximum(wide, high)
    match shape:
        case "circle":
            return square <= 0.85
        case "square":
            return longest <= 0.8
        case "triangle":
            return (y <= 0.75) & (wide <= (y + 0.95) * 0.55)
        case "diamond":
            return wide + high <= 1.0
        case "cross":
            return (np.minimum(wide, high) <= 0.28) & (longest <= 0.95)
        case "ring":
            return (square >= 0.3) & (square <= 0.95)
        case "star":
            behind = [normal_x * x + normal_y * y <= 0.36 for normal_x, normal_y in _STAR]
            return (np.sum(behind, axis=0) >= 4) & (square <= 1.0)
        case "heart":
            lobes = (wide - 0.42) * (wide - 0.42) + (y + 0.35) * (y + 0.35) <= 0.22
            return lobes | ((y >= -0.2) & (wide <= (0.95 - y) * 0.76))
        case "crescent":
            return (square <= 0.95) & ((x - 0.45) * (x - 0.45) + y * y > 0.6)
        case "arrow":
            return ((x <= 0.1) & (x >= -0.95) & (high <= 0.25)) | ((x >= 0.0) & (high <= (0.95 - x) * 0.9))
        case "frame":
            return (longest <= 0.85) & (longest >= 0.5)
        case _:  # hourglass
            return (wide <= high * 0.85 + 0.08) & (high <= 0.9)


def _background(kind: str, dice: Dice, *, bright: bool) -> _Tone:
    """A background of two related tones, int ``(32, 32, 3)``."""
    base = dice.array(60, 3) + (85 if bright else 45)
    other = base + (28 if dice.below(2) else -28)
    if kind == "shaded":
        ramp = (_ROWS if dice.below(2) else _COLUMNS)[..., None] * np.ones((SIDE, SIDE, 1), np.int64)
        return np.clip(base + (other - base) * 3 * ramp // (2 * SIDE), 0, 255)
    if kind == "grainy":
        return np.clip(base + dice.array(61, SIDE, SIDE, 1) - 30, 0, 255) * np.ones((1, 1, 3), np.int64)
    period, shift = dice.between(3, 4), dice.below(8)
    rows, columns = (_ROWS + shift) // period, (_COLUMNS + shift) // period
    mask = {
        "plain": np.zeros((SIDE, SIDE), bool),
        "striped": np.broadcast_to(rows % 2 == 0, (SIDE, SIDE)),
        "checkered": (rows + columns) % 2 == 0,
        "dotted": ((_ROWS + shift) % 5 < 2) & ((_COLUMNS + shift) % 5 < 2),
    }[kind]
    return np.clip(np.where(mask[..., None], other, base), 0, 255)


def _sketch(coverage: _Tone, dice: Dice) -> Pixels:
    """The outline of the object in chalk on a dark board, two pixels thick."""
    inside = np.pad(coverage[..., 0] * 2 >= _OVERSAMPLING**2, 2)
    shifted = [inside[2 + dy : 2 + dy + SIDE, 2 + dx : 2 + dx + SIDE] for dy, dx in _STROKE]
    core, surrounded = inside[2:-2, 2:-2], np.all(shifted, axis=0)
    chalk, board = dice.between(190, 250), dice.between(50, 90)
    lines = np.where(core & ~surrounded, chalk, board)
    return np.repeat(lines[..., None], 3, axis=2).astype(np.uint8)
