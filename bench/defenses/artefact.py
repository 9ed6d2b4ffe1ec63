"""Defense artefacts: what tuning leaves, and putting it back onto its checkpoint.

``<checkpoint>/<dataset>.seed<k>/`` (or ``any.seed<k>`` for defenses that need no labels) holds one safetensors file
per part of the defense and ``artefact.json``. Parts are what ``+`` joins.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors.torch import load_file

from bench.backdoors.checkpoint import Checkpoint
from bench.clip.defended import DefendedCLIP, Task
from bench.clip.staged import StagedCLIP
from bench.config import Options, Track, parse
from bench.datasets.store import Manifest
from bench.errors import UserError, unknown
from bench.files import sha256_of
from bench.items import item_options, load_item
from bench.provenance import Provenance

ARTEFACT_VERSION = 2
CARD = "artefact.json"


class Part(NamedTuple):
    """One of the defenses that ``+`` joins."""

    name: str
    module: Any
    options: Options


class ArtefactCard(Options):
    """The content of ``artefact.json``.

    Attributes:
        defense: Ids of the defense files, with ``+`` between parts.
        options: Options of each part, defaults filled in.
        template: Class prompt that takes the place of the dataset's; empty if none does.
        checkpoint: Hash of the checkpoint that it belongs to.
        data: Hashes of the manifests that it was tuned on, and of files that it was made from.
        seed: Seed of the training.
        shots: Labelled images per class.
        left_out: Class without labelled images; empty if all have some.
        left_out_named: Whether its name was among those told apart in tuning.
        classes: Which classes it was tuned on, ``all`` or ``base``.
        state: ``done``, or ``diverged`` if a loss was not finite.
        reason: For people.
        tuned_parameters: Numbers that were tuned.
        training_samples: Images, or pairs, that it was tuned on; the most over its parts.
        files: Hash of each part's tensors.
        sources: Hash of each part's code.
        wall_s: Seconds of training.
        peak_memory_mb: Most memory of the process by the end of the training or, on an accelerator, of its tensors.
        provenance: Where it was tuned.
    """

    version: int = ARTEFACT_VERSION
    defense: str
    options: dict[str, dict[str, Any]]
    template: str
    checkpoint: str
    data: dict[str, str]
    seed: int
    shots: int
    left_out: str
    left_out_named: bool
    classes: str = "all"
    state: Literal["done", "diverged"]
    reason: str = ""
    tuned_parameters: int = 0
    training_samples: int = 0
    files: dict[str, str]
    sources: dict[str, str]
    wall_s: float
    peak_memory_mb: float = 0.0
    provenance: Provenance

    @property
    def digest(self) -> str:
        """Hash of everything that decides how the defended model behaves."""
        content = [self.options, self.template, self.checkpoint, self.files, self.sources]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parts_of(track: Track, defense: str, where: str) -> list[Part]:
    """The parts of a defense with their validated options.

    Args:
        track: Where the defense's entry stands.
        defense: Id of the entry.
        where: File and key of the entry, for messages.

    Raises:
        UserError: There is no such defense file, or an option is wrong.
    """
    names, options = track.method(defense).split("+"), track.defenses[defense].options
    several = len(names) > 1
    for name in options if several else ():
        if name not in names:
            raise unknown("part", name, names, f"{where}.options")
    parts = list[Part]()
    for name in names:
        module = load_item("defenses", name, where)
        own, place = (options.get(name, {}), f"{where}.options.{name}") if several else (options, f"{where}.options")
        parts.append(Part(name, module, item_options(module, own, place)))
    return parts


def artefact_name(parts: list[Part], dataset: str, seed: int) -> str:
    """Folder of an artefact below its checkpoint's.

    Args:
        parts: Of the defense.
        dataset: The dataset it is tuned on.
        seed: Of its training.
    """
    on_labels = any(part.module.TUNES_ON == "labels" for part in parts)
    return f"{dataset if on_labels else 'any'}.seed{seed}"


def load_artefact(folder: Path, parts: list[Part], checkpoint: Checkpoint) -> tuple[ArtefactCard, DefendedCLIP | None]:
    """The artefact in ``folder`` on its checkpoint; no model if its training diverged.

    Raises:
        UserError: It is missing, was changed, or belongs to another checkpoint.
    """
    path = folder / CARD
    if not path.exists():
        raise UserError(f"{path} is missing: tune the defense first, with `dvc repro` or `bench defend`")
    card = parse(ArtefactCard, json.loads(path.read_text("utf-8")), str(path))
    if card.checkpoint != checkpoint.digest:
        raise UserError(f"{path}: belongs to another checkpoint than the one here; tune the defense again")
    if card.state != "done":
        return card, None
    model = DefendedCLIP(StagedCLIP(checkpoint.clip))
    for part in parts:
        file = folder / f"{part.name}.safetensors"
        if sha256_of(file) != card.files[part.name]:
            raise UserError(f"{file} was changed since the defense was tuned; tune it again")
        there = model.staged.device
        tensors = {name: tensor.to(there) for name, tensor in load_file(file).items()}
        with there:  # what a defense makes anew for its tensors is made beside them
            model = part.module.load(tensors, model, part.options)
    return card, model


def task_of(manifest: Manifest, template: str = "", classes: range | None = None) -> Task:
    """The classes of a dataset, all or ``classes``, and their prompt: the given template, or else the dataset's own."""
    names = manifest.description.class_names
    chosen = names if classes is None else names[classes.start : classes.stop]
    return Task(chosen, template or manifest.description.template)
