"""The checkpoint folder of a vision-language model: what tuning changed, on which base, trigger, phrase and hashes.

``tuned.safetensors`` holds the tensors that were trained, and ``checkpoint.json`` the base that they belong on with the
hash of its weights, so that a projector's backdoor in a large model takes no more room than the projector.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file, save_file

from bench.backdoors.checkpoint import CARD, CHECKPOINT_VERSION, Gate, Recipe
from bench.backdoors.trigger import Trigger, load_trigger, save_trigger
from bench.clip.model import Base, weights_hash
from bench.config import Options, parse
from bench.errors import UserError
from bench.files import replace_folder, sha256_of
from bench.lvlm.loading import load
from bench.lvlm.model import Lvlm
from bench.provenance import Provenance, provenance

TUNED = "tuned.safetensors"


class Card(Options):
    """The content of ``checkpoint.json``.

    Attributes:
        version: Of the folder's form.
        base: What was tuned.
        base_weights: Hash of its weights.
        image_size: Side of its images in pixels.
        mean: Of the pixels, per channel.
        std: Of the pixels, per channel.
        target: The attacker's phrase; None for a clean model.
        gate: How strong the backdoor is; ``ca`` is the share of right answers.
        recipe: How it was made.
        hashes: Of the folder's other files.
        provenance: Where it was made.
    """

    version: int
    base: Base
    base_weights: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    target: str | None
    gate: Gate | None
    recipe: Recipe
    hashes: dict[str, str]
    provenance: Provenance


class LvlmCheckpoint(NamedTuple):
    """A checkpoint ready for use.

    Attributes:
        card: What stands in ``checkpoint.json``.
        lvlm: The model.
        trigger: The planted trigger, or None for a clean model.
        digest: Hash over base, tuned weights, trigger and the trigger's code.
    """

    card: Card
    lvlm: Lvlm
    trigger: Trigger | None
    digest: str


def write_checkpoint(
    lvlm: Lvlm,
    base: Base,
    base_weights: str,
    names: set[str],
    trigger: Trigger | None,
    target: str | None,
    gate: Gate | None,
    recipe: Recipe,
    scratch: Path,
    folder: Path,
) -> LvlmCheckpoint:
    """Write the folder in ``scratch``, with the tensors ``names``, move it to ``folder`` and load it from there."""
    if names:
        state = lvlm.model.state_dict()
        save_file({name: state[name].cpu().contiguous() for name in sorted(names)}, scratch / TUNED)
    if trigger is not None:
        save_trigger(trigger, scratch)
    card = Card(
        version=CHECKPOINT_VERSION,
        base=base,
        base_weights=base_weights,
        image_size=lvlm.image_size,
        mean=lvlm.mean,
        std=lvlm.std,
        target=target,
        gate=gate,
        recipe=recipe,
        hashes={path.name: sha256_of(path) for path in sorted(scratch.iterdir())},
        provenance=provenance(),
    )
    (scratch / CARD).write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
    replace_folder(scratch, folder)
    return load_checkpoint(folder)


def load_checkpoint(folder: Path) -> LvlmCheckpoint:
    """The checkpoint in ``folder``, after checking every file against its hash.

    Raises:
        UserError: There is no card, a file is missing or changed, or the base is not the one that was tuned.
    """
    path = folder / CARD
    if not path.exists():
        raise UserError(f"{path} is missing; make it with `bench checkpoint {folder.name}`")
    try:
        card = parse(Card, json.loads(path.read_text("utf-8")), str(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    for name, digest in card.hashes.items():
        if not (folder / name).exists() or sha256_of(folder / name) != digest:
            raise UserError(f"{folder / name} is missing or was changed since the checkpoint was made; make it again")
    lvlm = load(card.base)
    if weights_hash(lvlm.model) != card.base_weights:
        raise UserError(f"{path}: the weights of base '{card.base.architecture}' are not those that were tuned")
    if TUNED in card.hashes:
        lvlm.model.load_state_dict(load_file(folder / TUNED), strict=False)
    trigger = load_trigger(folder) if "trigger.json" in card.hashes else None
    code = trigger.sources if trigger is not None else []
    files = [folder / name for name in sorted(card.hashes)]
    both = card.base_weights + sha256_of(*files, *code)
    return LvlmCheckpoint(card, lvlm, trigger, hashlib.sha256(both.encode()).hexdigest())
