"""A suite made small: the same entries with random weights, one step of everything, and a few images.

What an item's options mean is told from their names, which are the same in all items: so many epochs, steps, images.
"""

from typing import Any

from bench.backdoors.steganography import SteganographyOptions
from bench.config import AttackSpec, CheckpointSpec, DefenseSpec, Options, Suite, SurrogateSpec, Track
from bench.items import Kind, load_item
from bench.planned import Absent

ARCHITECTURE = "ViT-B-32-quickgelu"
PAIRS = 8
_SMALL: dict[str, Any] = {
    **{"epochs": 1, "steps": 1, "attack_steps": 1, "batch_size": 2, "images": 4, "pairs": 4, "count": 4},
    **{"warmup_epochs": 0, "warmup_steps": 0, "weights": "random", "backbone": "resnet10", "widths": (4, 8)},
    **{"least_bit_accuracy": 0.0},
}


def shrink(suite: Suite, limit: int) -> Suite:
    """The suite with ``limit`` images per cell, to be rehearsed.

    Tracks keep their first dataset and one checkpoint: the first whose trigger no earlier track has, if there is one.
    All defenses and attacks keep their entries.
    """
    absent, planted, tracks = Absent(suite), set[str](), dict[str, Track]()
    for name, track in suite.tracks.items():
        triggers = {suite.checkpoints[one].trigger: one for one in reversed(track.checkpoints)}
        new = [one for one in triggers if one not in planted]
        kept = triggers[new[-1]] if new else track.checkpoints[0]
        planted.add(suite.checkpoints[kept].trigger)
        defenses = {one: _defense(track, one, absent.defense(name, one)) for one in track.defenses}
        changes = {"checkpoints": (kept,), "datasets": track.datasets[:1], "defenses": defenses}
        tracks[name] = track.model_copy(update=changes)
    protocol = {"batch_size": limit, "seeds": suite.protocol.seeds[:1], "shots": 1}
    return suite.model_copy(
        update={
            "limit": limit,
            "protocol": suite.protocol.model_copy(update=protocol),
            "steganography": _small(SteganographyOptions, suite.steganography) if suite.steganography else {},
            "checkpoints": {
                name: spec if absent.checkpoint(name) else _checkpoint(spec) for name, spec in suite.checkpoints.items()
            },
            "surrogates": {name: _surrogate(spec) for name, spec in suite.surrogates.items()},
            "attacks": {
                name: spec if absent.attack(name) else _attack(spec, suite.method_of(name))
                for name, spec in suite.attacks.items()
            },
            "tracks": tracks,
        }
    )


def _checkpoint(spec: CheckpointSpec) -> CheckpointSpec:
    changes: dict[str, Any] = {"base": {"architecture": ARCHITECTURE, "weights": "random"}}
    if spec.trigger != "none":
        changes |= {
            "trigger_options": _small_item("backdoors", spec.trigger, spec.trigger_options),
            "poison_rate": 0.5,
            "train": {**spec.train, "epochs": 1, "batch_size": PAIRS},
            # Nothing is learned here, so any backdoor passes.
            "gate": {"least_asr": 0, "largest_ca_loss": 100},
        }
    return spec.model_copy(update=changes)


def _surrogate(spec: SurrogateSpec) -> SurrogateSpec:
    return spec.model_copy(update={"options": _small_item("surrogates", spec.recipe, spec.options)})


def _attack(spec: AttackSpec, method: str) -> AttackSpec:
    return spec.model_copy(update={"options": _small_item("attacks", method, spec.options)})


def _defense(track: Track, name: str, lacking: list[str]) -> DefenseSpec:
    spec, parts = track.defenses[name], track.method(name).split("+")
    if lacking:
        return spec
    if len(parts) == 1:
        options = _small_item("defenses", parts[0], spec.options)
    else:
        options = {part: _small_item("defenses", part, spec.options.get(part, {})) for part in parts}
    tuning = spec.tuning.model_copy(update={"shots": spec.tuning.shots and 1})
    return spec.model_copy(update={"options": options, "tuning": tuning})


def _small_item(kind: Kind, name: str, options: dict[str, Any]) -> dict[str, Any]:
    return _small(load_item(kind, name, f"{kind}.{name}").Options, options)


def _small(model: type[Options], options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with everything that costs time at its least; what has another meaning there is left alone."""
    small = dict(options)
    for name, least in _SMALL.items():
        field = model.model_fields.get(name)
        value = options.get(name, field.default if field else None)
        if field is not None and isinstance(value, type(least) if isinstance(least, str) else int | float | tuple):
            small[name] = least
    return small
