"""What questions to large vision-language models cost, from the sizes of their parts."""

from functools import cache
from typing import NamedTuple

from bench.config import CheckpointSpec, Suite, parse
from bench.defenses.artefact import Part, parts_of
from bench.lvlm.architecture import Architecture, Decoder, Level, read_architecture
from bench.lvlm.options import StrengthOptions, TuneOptions
from bench.lvlm.recipes.load import load_recipe
from bench.overview.assumed import size_of
from bench.overview.cells import CellState
from bench.overview.meter import GRADIENT, Meter
from bench.overview.work import Sizes, Work
from bench.paths import Paths

# Tokens of a question and its answer, beside the image's.
WORDS = 48
_SMALL = "mini"


class LvlmSize(NamedTuple):
    """How large a model is.

    Attributes:
        question: Multiplications of all parts for one image, a question and its answer.
        parameters: Numbers in all.
        tuned: Of these, the ones that a checkpoint keeps that was tuned at a level.
    """

    question: float
    parameters: int
    tuned: dict[Level, int]


@cache
def lvlm_size(architecture: str) -> LvlmSize:
    """The size of a large vision-language model; a published one is not made for it.

    Raises:
        UserError: It is a model of our own, and the packages that it needs are not installed.
    """
    spec = read_architecture(architecture)
    if spec.published is None:
        return _measured(architecture, spec)
    full = spec.published
    image = full.image_layers * (4 * full.image_width**2 + 2 * full.image_width * full.image_hidden)
    tower = image * full.image_patches + 2 * full.image_layers * full.image_patches**2 * full.image_width
    words = 2 * full.decoder.words * full.decoder.width
    return _sized(tower + full.adapter * full.image_tokens, image, full.adapter, full.image_tokens, full.decoder, words)


def _measured(architecture: str, spec: Architecture) -> LvlmSize:
    from bench.lvlm.libraries import check_libraries

    check_libraries()
    from bench.lvlm.levels import tuned_names
    from bench.lvlm.loading import build

    lvlm = build(architecture)
    numbers = {name: parameter.numel() for name, parameter in lvlm.model.named_parameters()}
    text = lvlm.family.decoder(lvlm.model).config
    decoder = Decoder(
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        hidden=text.intermediate_size,
        heads=text.num_attention_heads,
        key_heads=text.num_key_value_heads,
        head=text.hidden_size // text.num_attention_heads,
        words=text.vocab_size,
    )
    question = size_of(spec.tower).image + (lvlm.image_tokens + WORDS) * _token(decoder)
    levels: tuple[Level, ...] = ("projector", "lora", "full")
    tuned: dict[Level, int] = {level: sum(numbers[name] for name in tuned_names(lvlm, level)) for level in levels}
    return LvlmSize(question, sum(numbers.values()), tuned)


def _sized(tower: float, image: int, adapter: int, image_tokens: int, decoder: Decoder, words: int) -> LvlmSize:
    text = _blocks(decoder) + words
    low_rank = decoder.layers * decoder.width * decoder.head * (decoder.heads + decoder.key_heads)
    tuned: dict[Level, int] = {"projector": adapter, "lora": low_rank, "full": adapter + text}
    return LvlmSize(tower + (image_tokens + WORDS) * _token(decoder), image + adapter + text, tuned)


def _blocks(decoder: Decoder) -> int:
    """Numbers in the decoder's blocks."""
    attention = 2 * decoder.width * decoder.head * (decoder.heads + decoder.key_heads)
    return decoder.layers * (attention + 3 * decoder.width * decoder.hidden)


def _token(decoder: Decoder) -> float:
    """Multiplications of the decoder for one token: one for each number, but for the words that go in."""
    return _blocks(decoder) + decoder.words * decoder.width


class QuestionReckoner:
    """Goes through what a suite does with large vision-language models; ``notes`` is added to."""

    def __init__(self, suite: Suite, paths: Paths, meter: Meter, sizes: Sizes, notes: list[str]) -> None:
        """Measure nothing yet."""
        self._suite, self._paths, self._meter, self._sizes, self._notes = suite, paths, meter, sizes, notes
        self._question_s, self._purifying = cache(meter.question_s), cache(self._multiplications)

    def planting_s(self, name: str) -> float:
        """Seconds of tuning a checkpoint and of its gate, which asks clean and triggered questions before and after."""
        spec = self._suite.checkpoints[name]
        where = f"{self._paths.suite}: checkpoints.{name}"
        recipe = load_recipe(str(spec.train.get("recipe", "replace")), f"{where}.train")
        options: TuneOptions = parse(recipe.Options, spec.train, f"{where}.train")
        gate = parse(StrengthOptions, spec.gate, f"{where}.gate")
        tuned = self._sizes.pairs(spec.pairs) * options.epochs * GRADIENT
        return (tuned + 4 * self._sizes.questions(spec.dataset, "val", gate.questions)) * self._asked_s(spec)

    def tuning_s(self, part: Part, checkpoint: str) -> float:
        """Seconds of a part of a defense that looks at questions; what trains a network is left out."""
        if getattr(part.module, "IGNORES_VICTIM", False):
            if not getattr(part.options, "weights", ""):
                self._notes.append(f"Defense '{part.name}' trains a network once, for all checkpoints; it is left out.")
            return 0.0
        return getattr(part.options, "samples", 0) * self._asked_s(self._suite.checkpoints[checkpoint])

    def work_left(self, state: CellState) -> tuple[int, Work]:
        """What is left of one cell: how many questions, and how often the model answers each."""
        cell, spec = state.cell, self._suite.attacks[state.cell.attack]
        asks = 1.0
        for part in self._parts(state.track, cell.defense):
            asks *= part.module.asks(part.options) if hasattr(part.module, "asks") else 1
        most = spec.sample(cell.dataset)
        return max(0, self._sizes.questions(cell.dataset, cell.split, most) - state.images), Work(asks, 0)

    def attack_s(self, state: CellState) -> float:
        """Seconds of what is left of one cell, with what purifies its images."""
        questions, work = self.work_left(state)
        if not questions:
            return 0.0
        extra, spec = self._purifying(state.track, state.cell.defense), self._suite.checkpoints[state.cell.checkpoint]
        speed = self._meter.passes(_SMALL, self._suite.protocol.batch_size).forward_s / size_of(_SMALL).image
        return questions * (work.forwards * self._asked_s(spec) + extra * speed)

    def _multiplications(self, track: str, defense: str) -> float:
        """What networks of a defense's own take for one image."""
        parts = [part for part in self._parts(track, defense) if hasattr(part.module, "multiplications")]
        return sum(part.module.multiplications(part.options) for part in parts)

    def _parts(self, track: str, defense: str) -> list[Part]:
        return parts_of(self._suite.tracks[track], defense, f"{self._paths.suite}: tracks.{track}.defenses.{defense}")

    def _asked_s(self, spec: CheckpointSpec) -> float:
        self._notes.append(
            f"A question and its answer are taken to have {WORDS} tokens beside the image's, and to be one pass; an "
            "answer that is written token by token takes longer."
        )
        return self._question_s(spec.base["architecture"])


def kept_numbers(spec: CheckpointSpec) -> int:
    """How many numbers a checkpoint of a large vision-language model keeps: the tuned ones."""
    if spec.trigger == "none":
        return 0
    recipe = load_recipe(str(spec.train.get("recipe", "replace")), "checkpoints")
    options: TuneOptions = parse(recipe.Options, spec.train, "checkpoints")
    return lvlm_size(spec.base["architecture"]).tuned[options.level]
