"""Everything in a suite that reading it cannot check: options of all items, models, classes, splits and tables.

All faults are collected, so that one list mends the suite before anything has run.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.analyses.subjects.references import faults_of, name_faults
from bench.backdoors.make import GateOptions, TrainOptions
from bench.backdoors.steganography import SteganographyOptions
from bench.clip.pretrain import WEIGHTS, recipe_of
from bench.config import AnalysisSpec, CheckpointSpec, Metric, Room, Suite, Track, parse
from bench.errors import UserError, unknown
from bench.items import Kind, item_options, load_item
from bench.lvlm.architecture import lvlm_architectures
from bench.lvlm.check import checkpoint_faults, track_faults
from bench.lvlm.options import recipe_of as lvlm_recipe
from bench.lvlm.room import is_lvlm
from bench.overview.base import check_base
from bench.overview.fetched import Fetched
from bench.overview.listing import used_items
from bench.overview.tables import table_faults
from bench.paths import Paths, paths_for
from bench.planned import Absent


def check_suite(suite: Suite, path: Path) -> list[str]:
    """All faults of a suite, each naming the file, the key and the fix; empty if there are none.

    Args:
        suite: As read by ``load_suite``.
        path: Its file; classes and splits are checked for the datasets that have been fetched.
    """
    return _Checker(suite, paths_for(path)).check()


class _Checker:
    """Goes through a suite and keeps what is wrong."""

    def __init__(self, suite: Suite, paths: Paths) -> None:
        self._suite, self._paths = suite, paths
        self._faults = list[str]()
        self._data = Fetched(suite, paths)
        self._absent = Absent(suite).items

    def check(self) -> list[str]:
        metrics = dict[str, Metric]()
        for name, options in self._suite.datasets.items():
            self._item("datasets", name, options, f"datasets.{name}", f"datasets.{name}")
        for name, spec in self._suite.attacks.items():
            method = self._suite.method_of(name)
            module = self._item("attacks", method, spec.options, f"attacks.{name}", f"attacks.{name}.options")
            if module is not None:
                metrics[name] = module.METRIC
        for name, spec in self._suite.surrogates.items():
            self._item(
                "surrogates", spec.recipe, spec.options, f"surrogates.{name}.recipe", f"surrogates.{name}.options"
            )
        for name, spec in self._suite.pretraining.items():
            with self._collected():
                recipe = lvlm_recipe if spec.architecture in lvlm_architectures() else recipe_of
                recipe(spec, self._at(f"pretraining.{name}"))
            if spec.pairs:
                self._add(*self._data.has_captions(spec.pairs, f"pretraining.{name}.pairs"))
        for name, spec in self._suite.checkpoints.items():
            self._checkpoint(spec, f"checkpoints.{name}")
        self._steganography()
        for name, track in self._suite.tracks.items():
            for defense in track.defenses:
                self._defense(name, defense, f"tracks.{name}.defenses.{defense}")
            for dataset in track.datasets:
                self._add(*self._data.has_splits(dataset, track.splits, f"tracks.{name}.splits"))
            for attack in track.attacks:
                if metrics.get(attack) == "ASR":
                    self._targets(track, attack, f"tracks.{name}")
            self._faults += track_faults(self._suite, name, str(self._paths.suite))
        self._add(*table_faults(self._suite, metrics))
        for name, spec in self._suite.analyses.items():
            self._analysis(name, spec)
        self._planned()
        return list(dict.fromkeys(self._faults))

    def _planned(self) -> None:
        """What is planned is named somewhere; a slip in it would otherwise hide."""
        named: dict[Room, set[str]] = {
            "architectures": {spec.base.get("architecture", "") for spec in self._suite.checkpoints.values()},
            "backdoors": used_items(self._suite, "backdoors"),
            "attacks": used_items(self._suite, "attacks"),
            "defenses": used_items(self._suite, "defenses"),
        }
        for room, names in self._suite.planned.items():
            for name in names:
                if name not in named[room]:
                    self._add(str(unknown("id that the suite names", name, named[room], f"planned.{room}")))

    def _steganography(self) -> None:
        """The options of ISSBA's networks, where a checkpoint has that trigger."""
        if any(spec.trigger == "issba" for spec in self._suite.checkpoints.values()):
            with self._collected():
                options = parse(SteganographyOptions, self._suite.steganography, self._at("steganography"))
                if options.dataset not in self._suite.datasets:
                    raise unknown("dataset", options.dataset, self._suite.datasets, self._at("steganography.dataset"))

    def _checkpoint(self, spec: CheckpointSpec, key: str) -> None:
        if is_lvlm(spec):
            self._faults += checkpoint_faults(spec, self._at(key))
        elif ("architectures", spec.base.get("architecture", "")) not in self._absent:
            with self._collected():
                weights = [self._paths.pretrained(name) / WEIGHTS for name in self._suite.pretraining]
                check_base(spec.base, self._at(f"{key}.base"), weights)
        self._item("backdoors", spec.trigger, spec.trigger_options, f"{key}.trigger", f"{key}.trigger_options")
        if not is_lvlm(spec):
            with self._collected():
                parse(TrainOptions, spec.train, self._at(f"{key}.train"))
            with self._collected():
                parse(GateOptions, spec.gate, self._at(f"{key}.gate"))
        if spec.trigger == "none":
            return
        if spec.poison_rate == 0:
            self._add(f"{key}.poison_rate: 0 plants no backdoor; raise it")
        if not is_lvlm(spec):
            self._add(*self._data.has_class(spec.dataset, spec.target, f"{key}.target"))
        self._add(*self._data.has_splits(spec.dataset, ("val",), f"{key}.dataset (the strength gate)"))
        self._add(*self._data.has_captions(spec.pairs, f"{key}.pairs"))

    def _defense(self, track_name: str, defense: str, key: str) -> None:
        track = self._suite.tracks[track_name]
        spec, parts, place = track.defenses[defense], track.method(defense).split("+"), f"{key}.options"
        for extra in spec.options.keys() - parts if len(parts) > 1 else ():
            self._add(str(unknown("part", extra, parts, place)))
        for part in parts:
            own = spec.options if len(parts) == 1 else spec.options.get(part, {})
            module = self._item("defenses", part, own, key, place if len(parts) == 1 else f"{place}.{part}")
            if module is not None and module.TUNES_ON == "pairs":
                if not track.pairs:
                    self._add(f"{key}: '{part}' tunes on captions; name a dataset of them under the track's 'pairs'")
                self._add(*self._data.has_captions(track.pairs, f"{key} ('{part}' tunes on captions)"))
            if module is not None and module.TUNES_ON == "labels":
                for dataset in track.tuning_datasets(defense):
                    self._add(*self._data.has_shots(dataset, self._suite.shots(track_name, defense), key))
        for checkpoint in track.checkpoints if spec.tuning.without_target else ():
            if self._suite.checkpoints[checkpoint].trigger == "none":
                self._add(f"{key}.tuning.without_target: checkpoint '{checkpoint}' is clean and has no target")

    def _analysis(self, name: str, spec: AnalysisSpec) -> None:
        key = f"analyses.{name}"
        self._faults += name_faults(self._suite, name, self._at(key))
        module = self._item("analyses", spec.method, spec.options, f"{key}.method", f"{key}.options")
        with self._collected():
            if module is not None:
                options = item_options(module, spec.options, self._at(f"{key}.options"))
                self._faults += faults_of(options, self._suite, self._at(f"{key}.options"))

    def _targets(self, track: Track, attack: str, key: str) -> None:
        """Where a backdoor's success is counted, there must be a backdoor, and its class."""
        for checkpoint in track.checkpoints:
            spec = self._suite.checkpoints[checkpoint]
            if spec.trigger == "none":
                self._add(f"{key}: '{attack}' counts a backdoor's success, but checkpoint '{checkpoint}' has none")
                continue
            for dataset in track.datasets if not is_lvlm(spec) else ():
                self._add(*self._data.has_class(dataset, spec.target, f"{key}.datasets ({attack} on {checkpoint})"))

    def _item(self, kind: Kind, name: str, options: object, named_at: str, options_at: str) -> Any:
        """The item's module with its options checked; None where it is planned, or (a fault) cannot be loaded."""
        if (kind, name) in self._absent:
            return None
        module = None
        with self._collected():
            try:
                module = load_item(kind, name, self._at(named_at))
            except (ImportError, SyntaxError) as error:
                raise UserError(self._at(f"{named_at}: '{name}' cannot be imported: {error}")) from error
            item_options(module, options, self._at(options_at))
        return module

    @contextmanager
    def _collected(self) -> Generator[None]:
        try:
            yield
        except UserError as error:
            self._faults += str(error).splitlines()

    def _add(self, *faults: str) -> None:
        self._faults += map(self._at, faults)

    def _at(self, key: str) -> str:
        return f"{self._paths.suite}: {key}"
