"""What a suite must get right about large vision-language models, checked before anything runs and without them."""

from collections.abc import Iterator

from bench.clip.model import Base
from bench.config import CheckpointSpec, Suite, parse
from bench.errors import UserError, unknown
from bench.items import load_item
from bench.lvlm.architecture import read_architecture, shipped_weights
from bench.lvlm.options import StrengthOptions
from bench.lvlm.recipes.load import load_recipe
from bench.lvlm.room import READING, VALUES, attacks_lvlm, is_lvlm_track, misplaced, no_attack
from bench.planned import Absent


def checkpoint_faults(spec: CheckpointSpec, where: str) -> Iterator[str]:
    """What is wrong with a checkpoint's base, recipe and gate; ``where`` is the file and key of its entry."""
    try:
        base = parse(Base, spec.base, f"{where}.base")
        hub, shipped = read_architecture(base.architecture).hub, shipped_weights(base.architecture)
        known = ["random", *(["shipped"] if shipped else []), *(["hub"] if hub else [])]
        if base.weights not in known and not base.weights.endswith(".safetensors"):
            raise unknown(f"weights of '{base.architecture}'", base.weights, known, f"{where}.base.weights")
    except UserError as error:
        yield str(error)
    try:
        recipe = load_recipe(str(spec.train.get("recipe", "replace")), f"{where}.train.recipe")
        parse(recipe.Options, spec.train, f"{where}.train")
    except UserError as error:
        yield str(error)
    try:
        parse(StrengthOptions, spec.gate, f"{where}.gate")
    except UserError as error:
        yield str(error)
    if spec.trigger != "none" and not spec.target:
        yield f"{where}.target: a backdoor needs the phrase that the model should say"


def track_faults(suite: Suite, name: str, where: str) -> Iterator[str]:
    """What is wrong with a track's choice of checkpoints, defenses and attacks; ``where`` is the suite's file."""
    track, key, absent = suite.tracks[name], f"{where}: tracks.{name}", Absent(suite)
    if all(absent.checkpoint(checkpoint) for checkpoint in track.checkpoints):
        return  # nobody knows yet what kind of models it will have
    try:
        lvlm = is_lvlm_track(suite, name)
    except UserError as error:
        yield f"{where}: {error}"
        return
    for defense in track.defenses:
        for part in track.method(defense).split("+"):
            try:
                module = load_item("defenses", part, f"{key}.defenses.{defense}")
            except UserError:  # told where items are checked
                continue
            if reason := misplaced(module, part, lvlm=lvlm):
                yield f"{key}.defenses.{defense}: {reason}"
            if module.TUNES_ON in READING and not track.pairs:
                yield f"{key}.defenses.{defense}: '{part}' {READING[module.TUNES_ON]} under the track's 'pairs'"
    for attack in track.attacks:
        try:
            module = load_item("attacks", suite.method_of(attack), f"{key}.attacks")
        except UserError:
            continue
        if lvlm and not attacks_lvlm(module):
            yield f"{key}.attacks: {no_attack(attack)}"
        if not lvlm and getattr(module, "NEEDS", "") == VALUES:
            yield f"{key}.attacks: '{attack}' attacks large vision-language models, which this track has none of"
