"""A suite made small: the same entries with random weights, one step of everything, and a few images.

What an item's options mean is told from their names, which are the same in all items: so many epochs, steps, images.
"""

from typing import Any

from bench.analyses.subjects.references import CellReference, ImageReference
from bench.backdoors.steganography import SteganographyOptions
from bench.config import AnalysisSpec, AttackSpec, CheckpointSpec, DefenseSpec, Options, Suite, SurrogateSpec, Track
from bench.defenses.restoring import RestoringOptions
from bench.items import Kind, item_options, load_item
from bench.lvlm.recipes.load import load_recipe
from bench.lvlm.room import is_lvlm
from bench.planned import Absent
from bench.rehearsal.parts import is_long

PAIRS = 8
_SMALL: dict[str, Any] = {
    **{"epochs": 1, "steps": 1, "attack_steps": 1, "batch_size": 2, "images": 4, "pairs": 4, "count": 4},
    **{"warmup_epochs": 0, "warmup_steps": 0, "weights": "random", "backbone": "resnet10", "widths": (4, 4, 4, 8)},
    **{"least_bit_accuracy": 0.0, "resamples": 10, "perplexity": 2.0, "orders": 2, "rows": (0,)},
    "modules": ("Emb.", "B1-Attn"),
}
# Of networks that restore images, which are trained then.
_RESTORING: dict[str, Any] = {
    **{"weights": "", "side": 32, "channels": 32, "multiples": (1,), "blocks": 1, "attention": (), "head": 32},
    **{"rounds": 1, "masks": 1, "refinements": 1, "longest": 2, "sampling": 1},
}
# Points of a line whose models an analysis opens; three have a correlation.
_POINTS = 3


def shrink(suite: Suite, limit: int, architecture: str) -> Suite:
    """The suite with ``limit`` images per cell, to be rehearsed.

    All tracks, tables and analyses keep their entries, so that what is not run stands in the tables as ``missing``.

    Args:
        suite: A paper's.
        limit: Images per cell.
        architecture: What stands, with random weights, for every architecture of a CLIP in the suite; large
            vision-language models are shrunken themselves.
    """
    absent = Absent(suite)
    protocol = {"batch_size": limit, "seeds": suite.protocol.seeds[:1], "shots": 1}
    return suite.model_copy(
        update={
            "limit": limit,
            "protocol": suite.protocol.model_copy(update=protocol),
            "steganography": _small(SteganographyOptions, suite.steganography) if suite.steganography else {},
            "checkpoints": {
                name: spec if absent.checkpoint(name) else _checkpoint(spec, architecture)
                for name, spec in suite.checkpoints.items()
            },
            "surrogates": {name: _surrogate(spec, architecture) for name, spec in suite.surrogates.items()},
            "attacks": {
                name: spec if absent.attack(name) else _attack(spec, suite.method_of(name))
                for name, spec in suite.attacks.items()
            },
            "tracks": {name: _track(track, name, absent) for name, track in suite.tracks.items()},
            "analyses": {name: _analysis(spec, suite) for name, spec in suite.analyses.items()},
        }
    )


def _checkpoint(spec: CheckpointSpec, architecture: str) -> CheckpointSpec:
    named, train = architecture, {**spec.train, "epochs": 1.0, "batch_size": float(PAIRS)}
    if is_lvlm(spec):
        recipe = load_recipe(str(spec.train.get("recipe", "replace")), "checkpoints")
        least = _small(recipe.Options, spec.train)
        named, train = (
            spec.base["architecture"],
            {key: float(value) if isinstance(value, int) else value for key, value in least.items()},
        )
    changes: dict[str, Any] = {"base": {"architecture": named, "weights": "random"}}
    if spec.trigger != "none":
        changes |= {
            "trigger_options": _small_item("backdoors", spec.trigger, spec.trigger_options),
            "poison_rate": 0.5,
            "train": train,
            # Nothing is learned here, so any backdoor passes.
            "gate": {"least_asr": 0, "largest_ca_loss": 100},
        }
    return spec.model_copy(update=changes)


def _surrogate(spec: SurrogateSpec, architecture: str) -> SurrogateSpec:
    options = _small_item("surrogates", spec.recipe, spec.options)
    if "weights" in options:
        options["architecture"] = architecture
    return spec.model_copy(update={"options": options})


def _attack(spec: AttackSpec, method: str) -> AttackSpec:
    return spec.model_copy(update={"options": _small_item("attacks", method, spec.options)})


def _track(track: Track, name: str, absent: Absent) -> Track:
    defenses = {one: _defense(track, one, absent.defense(name, one)) for one in track.defenses}
    return track.model_copy(update={"defenses": defenses})


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


def _analysis(spec: AnalysisSpec, suite: Suite) -> AnalysisSpec:
    """With few images, points and panels to measure, and no attack that takes all of its steps."""
    options = _small_item("analyses", spec.method, spec.options)
    parsed = item_options(load_item("analyses", spec.method, "analyses"), options, "analyses")
    if isinstance(parsed, CellReference):
        # It opens a model for every point that it reads from ``cells.csv``.
        first = parsed.checkpoints_in(suite)[:1]
        options |= {"defenses": options["defenses"][:_POINTS], "checkpoints": first}
    for name, panel in list(getattr(parsed, "panels", {}).items())[:1]:
        if isinstance(panel, ImageReference):
            options |= {"panels": {name: {**options["panels"][name], "images": _SMALL["images"]}}}
    return spec.model_copy(update={"options": _with_short_attacks(options, suite)})


def _with_short_attacks(content: Any, suite: Suite) -> Any:
    """Options in which another attack of the same threat model stands for each that has no fewer steps."""
    if isinstance(content, dict):
        return {
            key: _short(value, suite)
            if key == "attack" and isinstance(value, str)
            else _with_short_attacks(value, suite)
            for key, value in content.items()
        }
    return [_with_short_attacks(value, suite) for value in content] if isinstance(content, list | tuple) else content


def _short(attack: str, suite: Suite) -> str:
    absent, threat_model = Absent(suite), suite.attacks[attack].threat_model
    alike = [one for one, spec in suite.attacks.items() if spec.threat_model == threat_model and not absent.attack(one)]
    return next((one for one in (attack, *alike) if not is_long(suite, one)), attack)


def _small_item(kind: Kind, name: str, options: dict[str, Any]) -> dict[str, Any]:
    return _small(load_item(kind, name, f"{kind}.{name}").Options, options)


def _small(model: type[Options], options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with everything that costs time at its least; what has another meaning there is left alone."""
    small = dict(options)
    for name, least in (_SMALL | (_RESTORING if issubclass(model, RestoringOptions) else {})).items():
        field = model.model_fields.get(name)
        value = options.get(name, field.default if field else None)
        if field is not None and isinstance(
            value, type(least) if isinstance(least, str) else int | float | tuple | list
        ):
            small[name] = least
    return small
