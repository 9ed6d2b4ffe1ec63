"""What of a suite is run in a rehearsal: everything once, and what its analyses open."""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from bench.analyses.subjects.references import Need, references_in
from bench.config import CheckpointSpec, Options, Suite
from bench.defenses.artefact import parts_of
from bench.items import item_options, load_item
from bench.lvlm.libraries import lacking
from bench.lvlm.room import is_lvlm
from bench.planned import Absent

_Kind = tuple[str, ...]


class Test(NamedTuple):
    """A defense that is tuned and attacked.

    Attributes:
        defense: Its id in the track.
        checkpoints: What it defends.
        attacks: Ids of the attacks.
    """

    defense: str
    checkpoints: tuple[str, ...]
    attacks: tuple[str, ...]


class Part(NamedTuple):
    """What is run of a track.

    Attributes:
        track: Its id.
        datasets: What defenses are tuned on, or meant for; they are tested on the first.
        tests: What is tested.
        opened: Checkpoints and defenses that an analysis opens.
    """

    track: str
    datasets: tuple[str, ...]
    tests: list[Test]
    opened: list[tuple[str, str]]

    @property
    def tuned(self) -> dict[str, list[str]]:
        """The defenses to tune, by checkpoint."""
        pairs = chain(self.opened, ((one, test.defense) for test in self.tests for one in test.checkpoints))
        found = dict[str, list[str]]()
        for checkpoint, defense in dict.fromkeys(pairs):
            found.setdefault(checkpoint, []).append(defense)
        return found


def parts_to_run(suite: Suite) -> list[Part]:
    """What shows everything once: each track, each defense's file and each way to tune it, each trigger, each attack.

    Defenses and attacks meet each large vision-language model, for models of different families are of different code.
    All else would run the same code again; its cells stay ``missing``. So do those of what is planned only, and those
    of large vision-language models where the packages that these need are not installed.
    """
    needs, met = [need for name in analyses_to_run(suite) for need in needs_of(suite, name)], set[_Kind]()
    parts = list[Part]()
    for name, track in suite.tracks.items():
        own = [need for need in needs if need.track == name]
        opened = [(need.checkpoint, need.defense) for need in own]
        datasets = tuple(dict.fromkeys(need.dataset for need in own if need.dataset in track.datasets))
        tests = list(_tests(suite, name, [checkpoint for checkpoint, _ in opened], met))
        if tests or opened:
            parts.append(Part(name, datasets or track.datasets[:1], tests, opened))
    return parts


def analyses_to_run(suite: Suite) -> list[str]:
    """All that read ``cells.csv`` alone; of those that open models, the first of each kind."""
    chosen, met = list[str](), set[str]()
    for name, spec in suite.analyses.items():
        needs = list(needs_of(suite, name))
        if not needs:
            chosen.append(name)
        elif spec.method not in met and all(_stands_in(suite, need.checkpoint) for need in needs):
            chosen.append(name)
            met.add(spec.method)
    return chosen


def needs_of(suite: Suite, analysis: str) -> Iterator[Need]:
    """What an analysis opens; models for which it names no dataset are meant for its own."""
    spec, where = suite.analyses[analysis], f"analyses.{analysis}"
    options = item_options(load_item("analyses", spec.method, where), spec.options, where)
    for _, reference in references_in(options):
        for need in reference.needs(suite):
            yield need._replace(dataset=need.dataset or getattr(options, "dataset", ""))


def _tests(suite: Suite, name: str, opened: list[str], met: set[_Kind]) -> Iterator[Test]:
    """Tests of one track that show something new; it is added to ``met``."""
    absent, track = Absent(suite), suite.tracks[name]
    checkpoints = [one for one in track.checkpoints if _stands_in(suite, one)]
    if not checkpoints:
        return
    triggers = {_backdoor(suite.checkpoints[one]): one for one in reversed(checkpoints)}
    planted = [one for backdoor, one in reversed(triggers.items()) if backdoor not in met]
    main = [*opened, *planted, *checkpoints][0]
    large = [suite.checkpoints[main].base["architecture"]] if is_lvlm(suite.checkpoints[main]) else []
    there = [attack for attack in reversed(track.attacks) if not absent.attack(attack)]
    attacks = {(*_kind(suite, attack), *large): attack for attack in there}
    short = min(reversed(attacks.values()), key=lambda attack: is_long(suite, attack))
    found = 0
    # Undefended last, so that attacks are met with a defense where there is one.
    for defense in sorted(track.defenses, key=lambda one: one == suite.control):
        if absent.defense(name, defense):
            continue
        shown, on = {(*way, *large) for way in _ways(suite, name, defense)}, (main,)
        if defense == suite.control:
            on = tuple(dict.fromkeys((main, *planted)))
            shown |= {_backdoor(suite.checkpoints[one]) for one in on}
            shown |= {("track", name)} if not found else set()
        new = tuple(attack for kind, attack in reversed(attacks.items()) if kind not in met)
        if new or not shown <= met:
            met |= shown | set(attacks)
            found += 1
            yield Test(defense, on, new or (short,))


def _stands_in(suite: Suite, checkpoint: str) -> bool:
    """Whether a small model stands in for a checkpoint."""
    runs = not is_lvlm(suite.checkpoints[checkpoint]) or not lacking()
    return runs and not Absent(suite).checkpoint(checkpoint)


def _backdoor(spec: CheckpointSpec) -> _Kind:
    """The trigger, and how it is trained in where recipes differ."""
    return "trigger", spec.trigger, str(spec.train.get("recipe", ""))


def _ways(suite: Suite, track: str, defense: str) -> Iterator[_Kind]:
    """What a defense of a track shows: files, the variants of them that options name, its data, a prompt of its own."""
    spec = suite.tracks[track].defenses[defense]
    yield "method", suite.tracks[track].method(defense)
    for part in parts_of(suite.tracks[track], defense, f"tracks.{track}.defenses.{defense}"):
        yield from (("variant", part.name, *one) for one in _variants(part.options))
    yield from (("tuning", key) for key in spec.tuning.model_dump(exclude_defaults=True))
    if spec.template:
        yield ("template",)


def _kind(suite: Suite, attack: str) -> _Kind:
    """The file; where it takes fewer steps in a rehearsal, the variants that options name and the threat model too.

    AutoAttack and its parts always take all of theirs, so once must do.
    """
    method, spec = suite.method_of(attack), suite.attacks[attack]
    if is_long(suite, attack):
        return "attack", method
    options = item_options(load_item("attacks", method, "attacks"), spec.options, f"attacks.{attack}.options")
    return "attack", method, spec.threat_model, *chain.from_iterable(_variants(options))


def is_long(suite: Suite, attack: str) -> bool:
    """Whether an attack has no option for fewer steps."""
    module = load_item("attacks", suite.method_of(attack), "attacks")
    return module.METRIC == "RA" and "steps" not in module.Options.model_fields


def _variants(options: Options) -> Iterator[tuple[str, str]]:
    """Options that are words choose what code runs; numbers only how much or how strong."""
    yield from ((name, value) for name, value in options if isinstance(value, str))
