"""Which parts of a suite belong to this room. Light: the command asks before it loads anything."""

from typing import Any

from bench.config import CheckpointSpec, Suite
from bench.errors import UserError
from bench.lvlm.architecture import lvlm_architectures

# What a defense file says of itself where it is for the models of this room, under DEFENDS; ``none`` is for all.
LVLM = "lvlm"
# What an attack file needs that attacks the values in an image tower.
VALUES = "values"
# What its TUNES_ON may ask for, and what a track without it is told.
READING = {
    "questions": "calibrates on questions; name them",
    "images": "is tuned on images; name a dataset of them",
}


def is_lvlm(spec: CheckpointSpec) -> bool:
    """Whether a checkpoint is a large vision-language model."""
    return spec.base.get("architecture") in lvlm_architectures()


def is_lvlm_track(suite: Suite, track: str) -> bool:
    """Whether a track is about large vision-language models.

    Raises:
        UserError: Only some of its checkpoints are.
    """
    kinds = {name: is_lvlm(suite.checkpoints[name]) for name in suite.tracks[track].checkpoints}
    if len(set(kinds.values())) > 1:
        large = ", ".join(name for name, lvlm in kinds.items() if lvlm)
        raise UserError(
            f"tracks.{track}.checkpoints: {large} are large vision-language models and the others are not; "
            "give each kind a track of its own"
        )
    return any(kinds.values())


def misplaced(module: Any, name: str, *, lvlm: bool) -> str:
    """Why a defense cannot stand in a track; empty if it can."""
    if name == "none" or (getattr(module, "DEFENDS", "") == LVLM) == lvlm:
        return ""
    return f"'{name}' defends {'CLIPs' if lvlm else 'large vision-language models'}, which this track has none of"


def attacks_lvlm(module: Any) -> bool:
    """Whether an attack file attacks these models: it leaves images, plants triggers, or works on an image tower."""
    return module.METRIC in ("CA", "ASR") or getattr(module, "NEEDS", "") == VALUES


def no_attack(name: str) -> str:
    """Why an attack cannot stand in a track of these models."""
    return (
        f"'{name}' attacks classifiers; a track of large vision-language models takes 'clean', 'trigger' and attacks "
        "on an image tower's values, such as 'v_attack'"
    )
