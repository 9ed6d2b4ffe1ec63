"""What is left of a suite, in seconds: its work, times speeds."""

from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

from bench.backdoors.make import TrainOptions
from bench.clip.model import Base
from bench.config import Options, Suite, parse
from bench.defenses.artefact import Part, parts_of
from bench.items import item_options, load_item
from bench.lvlm.room import is_lvlm
from bench.overview.cells import CellState, cell_states
from bench.overview.meter import Meter
from bench.overview.models import checkpoint_states, defense_states
from bench.overview.questions import QuestionReckoner
from bench.overview.work import Sizes, Work, seen_images, work_of
from bench.paths import Paths


class Line(NamedTuple):
    """What one part of the suite takes.

    Attributes:
        stage: Group of stages.
        name: Checkpoint, defense or attack.
        left: How many checkpoints, artefact folders or cells are still to be made.
        done: How many are there already.
        seconds: For those that are left.
        memory_mb: Peak memory.
    """

    stage: str
    name: str
    left: int
    done: int
    seconds: float
    memory_mb: float


class Reckoner:
    """Goes through a suite, stage by stage; ``notes`` says what had to be assumed or left out."""

    def __init__(self, suite: Suite, paths: Paths, meter: Meter, survivors: float) -> None:
        """Measure nothing yet; the arguments are those of ``estimate``."""
        self._suite, self._paths, self._meter, self._survivors = suite, paths, meter, survivors
        self._attack = cache(self._opened)
        self._passes, self._pair_s = cache(meter.passes), cache(meter.pair_s)
        self.notes = list[str]()
        self._sizes = Sizes(suite, paths, self.notes)
        self._asking = QuestionReckoner(suite, paths, meter, self._sizes, self.notes)

    def checkpoints(self) -> Iterator[Line]:
        """One line per checkpoint."""
        for name, made in checkpoint_states(self._suite, self._paths).items():
            if made.state == "not_implemented":
                continue
            spec, seconds = self._suite.checkpoints[name], 0.0
            if spec.trigger != "none" and not made.ended and is_lvlm(spec):
                seconds = self._asking.planting_s(name)
            elif spec.trigger != "none" and not made.ended:
                options = parse(TrainOptions, spec.train, f"{self._paths.suite}: checkpoints.{name}.train")
                speed = self._pair_s(self._architecture(name), options.batch_size)
                seconds = self._sizes.pairs(spec.pairs) * options.epochs * speed
            yield self._line("checkpoint", name, int(not made.ended), 1, seconds)

    def defenses(self) -> Iterator[Line]:
        """One line per track and defense."""
        states = defense_states(self._suite, self._paths)
        for (track, defense), group in groupby(states, lambda key: key[:2]):
            places = [place for place in group if states[place].state != "not_implemented"]
            if not places:
                continue
            left = [place[2] for place in places if not states[place].ended]
            where = f"{self._paths.suite}: tracks.{track}.defenses.{defense}"
            parts = parts_of(self._suite.tracks[track], defense, where)
            seconds = sum(self._tuning_s(track, defense, part, parts, name) for name in left for part in parts)
            yield self._line(f"defend_{track}", defense, len(left), len(places), seconds)

    def attacks(self) -> Iterator[Line]:
        """One line per track and attack."""
        states = [state for state in cell_states(self._suite, self._paths) if state.state != "not_implemented"]
        for track, plan in self._suite.tracks.items():
            for attack in plan.attacks:
                cells = [state for state in states if (state.track, state.cell.attack) == (track, attack)]
                left = [state for state in cells if not state.ended]
                seconds = sum(self._attack_s(state) for state in left)
                yield self._line(f"evaluate_{track}", attack, len(left), len(cells), seconds)

    def _tuning_s(self, track: str, defense: str, part: Part, parts: list[Part], checkpoint: str) -> float:
        """One part of a defense on one checkpoint, for all datasets and seeds."""
        if is_lvlm(self._suite.checkpoints[checkpoint]):
            return self._asking.tuning_s(part, checkpoint) * len(self._suite.protocol.seeds)
        plan, architecture = self._suite.tracks[track], self._architecture(checkpoint)
        # A defense none of whose parts tunes on labels is the same for all datasets.
        on_labels = any(other.module.TUNES_ON == "labels" for other in parts)
        datasets = plan.tuning_datasets(defense)[: None if on_labels else 1]
        seconds = 0.0
        for dataset in datasets if part.module.TUNES_ON != "nothing" else ():
            on_pairs = part.module.TUNES_ON == "pairs"
            most = getattr(part.options, "pairs", None)
            images = (
                self._sizes.pairs(plan.pairs, most)
                if on_pairs
                else self._sizes.labelled(
                    dataset, self._suite.shots(track, defense), plan.defenses[defense].tuning.classes
                )
            )
            seen = seen_images(part.options, images)
            if seen is None:
                self.notes.append(f"Defense '{part.name}' has no epochs among its options; its tuning is left out.")
                continue
            speed = self._meter.tuning(architecture, part, self._sizes.task(dataset))
            seconds += images * speed.once_s + seen * speed.seen_s
        return seconds * len(self._suite.protocol.seeds)

    def work_left(self, state: CellState) -> tuple[int, Work] | None:
        """What is left of one cell: how many images, and what is done with each; None where that does not show."""
        if is_lvlm(self._suite.checkpoints[state.cell.checkpoint]):
            return self._asking.work_left(state)
        cell, spec = state.cell, self._suite.attacks[state.cell.attack]
        method, (module, options) = self._suite.method_of(cell.attack), self._attack(cell.attack)
        classes = len(self._sizes.task(cell.dataset).class_names)
        work = work_of(method, module, options, classes, self._survivors, len(spec.surrogates))
        if work is None:
            self.notes.append(f"Attack '{cell.attack}' does not show its passes per image; it is left out.")
            return None
        return max(0, self._sizes.images(cell.dataset, cell.split, spec.sample(cell.dataset)) - state.images), work

    def _attack_s(self, state: CellState) -> float:
        if is_lvlm(self._suite.checkpoints[state.cell.checkpoint]):
            return self._asking.attack_s(state)
        left = self.work_left(state)
        if left is None:
            return 0.0
        images, work = left
        speed = self._passes(self._architecture(state.cell.checkpoint), self._suite.protocol.batch_size)
        return images * (work.forwards * speed.forward_s + work.gradients * speed.gradient_s)

    def _opened(self, attack: str) -> tuple[Any, Options]:
        module = load_item("attacks", self._suite.method_of(attack), f"{self._paths.suite}: attacks")
        options = self._suite.attacks[attack].options
        return module, item_options(module, options, f"{self._paths.suite}: attacks.{attack}.options")

    def _architecture(self, checkpoint: str) -> str:
        where = f"{self._paths.suite}: checkpoints.{checkpoint}.base"
        return parse(Base, self._suite.checkpoints[checkpoint].base, where).architecture

    def _line(self, stage: str, name: str, left: int, total: int, seconds: float) -> Line:
        return Line(stage, name, left, total - left, seconds, self._meter.peak_memory_mb())
