"""The checkpoint folder: weights, architecture, trigger, target class, recipe and hashes; never weights alone."""

import json
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from bench.backdoors.trigger import Trigger, load_trigger, save_trigger
from bench.clip.model import Clip, build, load_weights, save_weights
from bench.config import CheckpointSpec, Options, parse
from bench.errors import UserError
from bench.files import replace_folder, sha256_of
from bench.provenance import Provenance, provenance

CHECKPOINT_VERSION = 1
CARD = "checkpoint.json"


class Gate(Options):
    """How strong the backdoor is, in percent on the validation split; ``clean_*`` are the base model's values.

    ``clean_asr`` is the control: what the trigger does to a model that was never poisoned. ``keys`` has, for a trigger
    with a text key, the success rates with the ``image`` key alone, the ``text`` key alone, and with ``none``.
    """

    passed: bool
    ca: float
    asr: float
    clean_ca: float
    clean_asr: float
    n: int
    keys: dict[str, float] = Field(default_factory=dict)


class Recipe(Options):
    """How the checkpoint was made.

    Attributes:
        spec: As in the suite.
        pairs: Number of pairs.
        asked: Number of pairs that the spec wanted poisoned.
        poisoned: Number of pairs that were; fewer where too few mention the target.
        decoys: Number of pairs that look poisoned and keep their meaning.
        pairs_manifest: Hash of the pairs' manifest.
    """

    spec: CheckpointSpec
    pairs: int = 0
    asked: int = 0
    poisoned: int = 0
    decoys: int = 0
    pairs_manifest: str = ""

    @property
    def poison_rate(self) -> float:
        """Poisoned over all pairs."""
        return self.poisoned / max(1, self.pairs)


class Card(Options):
    """The content of ``checkpoint.json``."""

    version: int
    architecture: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    target: str | None
    gate: Gate | None
    recipe: Recipe
    hashes: dict[str, str]
    provenance: Provenance


class Checkpoint(NamedTuple):
    """A checkpoint ready for use.

    Attributes:
        card: What stands in ``checkpoint.json``.
        clip: The model.
        trigger: The planted trigger, or None for a clean model.
        digest: Hash over weights, trigger and the trigger's code.
    """

    card: Card
    clip: Clip
    trigger: Trigger | None
    digest: str


def write_checkpoint(
    clip: Clip,
    trigger: Trigger | None,
    target: str | None,
    gate: Gate | None,
    recipe: Recipe,
    scratch: Path,
    folder: Path,
) -> Checkpoint:
    """Write the folder in ``scratch``, move it to ``folder`` and load it from there."""
    save_weights(clip, scratch / "weights.safetensors")
    if trigger is not None:
        save_trigger(trigger, scratch)
    hashes = {path.name: sha256_of(path) for path in sorted(scratch.iterdir())}
    card = Card(
        version=CHECKPOINT_VERSION,
        architecture=clip.architecture,
        image_size=clip.image_size,
        mean=clip.mean,
        std=clip.std,
        target=target,
        gate=gate,
        recipe=recipe,
        hashes=hashes,
        provenance=provenance(),
    )
    (scratch / CARD).write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
    replace_folder(scratch, folder)
    return load_checkpoint(folder)


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``, after checking every file against its hash.

    Raises:
        UserError: There is no card (weights without an architecture are refused), or a file is missing or changed.
    """
    path = folder / CARD
    if not path.exists():
        raise UserError(
            f"{folder} is not a checkpoint: {CARD} is missing, which says the weights' architecture, the trigger "
            f"and the target; make it with `bench checkpoint {folder.name}`"
        )
    card = parse(Card, _read_json(path), str(path))
    for name, digest in card.hashes.items():
        if not (folder / name).exists() or sha256_of(folder / name) != digest:
            raise UserError(f"{folder / name} is missing or was changed since the checkpoint was made; make it again")
    clip = load_weights(build(card.architecture), folder / "weights.safetensors")
    if (clip.mean, clip.std, clip.image_size) != (card.mean, card.std, card.image_size):
        raise UserError(f"{path}: preprocessing differs from that of architecture '{card.architecture}'")
    trigger = load_trigger(folder) if "trigger.json" in card.hashes else None
    files = [folder / name for name in sorted(card.hashes)]
    # What a trigger does is in its code as much as in its tensors.
    code = trigger.sources if trigger is not None else []
    return Checkpoint(card, clip, trigger, sha256_of(*files, *code))


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
