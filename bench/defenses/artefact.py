"""Defense artefacts: tuning a defense on a checkpoint, and putting the result back onto it.

``<checkpoint>/<dataset>.seed<k>/`` (or ``pairs.seed<k>`` for defenses that tune on pairs) holds one safetensors file
per part of the defense and ``artefact.json``. Defenses joined by ``+`` are tuned one after the other, each on the model
that the ones before it left.
"""

import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.backdoors.checkpoint import Checkpoint
from bench.clip.defended import DefendedCLIP, Task
from bench.clip.staged import StagedCLIP
from bench.config import Options, Suite, Track, parse
from bench.datasets.sampling import few_shot
from bench.datasets.store import Manifest, open_split, read_manifest
from bench.defenses.contract import Labelled, Pairs, Tensors
from bench.errors import UserError, unknown
from bench.files import replace_folder, sha256_of
from bench.items import item_options, load_item, source_hash
from bench.memory import peak_memory_mb
from bench.paths import Paths
from bench.provenance import Provenance, provenance

ARTEFACT_VERSION = 1


class Part(NamedTuple):
    """One of the defenses that ``+`` joins."""

    name: str
    module: Any
    options: Options


class ArtefactCard(Options):
    """The content of ``artefact.json``.

    Attributes:
        defense: Id, with ``+`` between parts.
        options: Options of each part, defaults filled in.
        checkpoint: Hash of the checkpoint that it belongs to.
        data: Hashes of the manifests that it was tuned on.
        seed: Seed of the training.
        shots: Labelled images per class.
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
    checkpoint: str
    data: dict[str, str]
    seed: int
    shots: int
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
        content = [self.options, self.checkpoint, self.files, self.sources]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Tuning:
    """One artefact to make: a defense on one checkpoint, with one dataset and one seed."""

    suite: Suite
    track: Track
    parts: list[Part]
    dataset: str
    seed: int
    checkpoint: Checkpoint
    paths: Paths

    @property
    def identity(self) -> dict[str, Any]:
        """All that the artefact depends on, as the card holds it."""
        names = {self._source(part) for part in self.parts} - {""}
        return {
            "defense": "+".join(part.name for part in self.parts),
            "options": {part.name: part.options.model_dump(mode="json") for part in self.parts},
            "checkpoint": self.checkpoint.digest,
            "data": {name: read_manifest(self.paths.data, name).digest for name in sorted(names)},
            "seed": self.seed,
            "shots": self.suite.protocol.shots,
            "sources": {part.name: source_hash(part.module) for part in self.parts},
        }

    @property
    def key(self) -> str:
        """Hash of the identity."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def data_for(self, part: Part) -> Labelled | Pairs | None:
        """What ``part`` tunes on."""
        name = self._source(part)
        if not name:
            return None
        manifest = read_manifest(self.paths.data, name)
        train = open_split(self.paths.data, manifest, "train")
        if part.module.TUNES_ON == "pairs":
            return Pairs(torch.from_numpy(train.images.copy()), train.captions)
        rows = few_shot(train.labels, self.suite.protocol.shots, self.seed)
        return Labelled(train.batch(rows), train.targets(rows), task_of(manifest))

    def _source(self, part: Part) -> str:
        """The dataset that ``part`` tunes on; empty if it needs none."""
        if part.module.TUNES_ON == "pairs" and not self.track.pairs:
            raise UserError(
                f"{self.paths.suite}: defense '{part.name}' tunes on captions; name them under the track's 'pairs'"
            )
        return {"pairs": self.track.pairs, "labels": self.dataset, "nothing": ""}[part.module.TUNES_ON]


def parts_of(defense: str, options: dict[str, Any], where: str) -> list[Part]:
    """The parts of ``defense`` with their validated options.

    Args:
        defense: Id, or ids joined by ``+``; then ``options`` has one entry per part.
        options: As read from YAML.
        where: File and key of the options.
    """
    names = defense.split("+")
    parts = list[Part]()
    for name in options if len(names) > 1 else ():
        if name not in names:
            raise unknown("part", name, names, where)
    for name in names:
        own = options if len(names) == 1 else options.get(name, {})
        module = load_item("defenses", name, where)
        parts.append(Part(name, module, item_options(module, own, f"{where}.{name}" if len(names) > 1 else where)))
    return parts


def artefact_name(parts: list[Part], dataset: str, seed: int) -> str:
    """Folder of an artefact below its checkpoint's."""
    on_labels = any(part.module.TUNES_ON == "labels" for part in parts)
    return f"{dataset if on_labels else 'any'}.seed{seed}"


def fit_all(
    suite: Suite, track_name: str, defense: str, checkpoint_name: str, checkpoint: Checkpoint, paths: Paths
) -> None:
    """Tune one defense on one checkpoint: for every dataset and seed of the track.

    Raises:
        UserError: Wrong options or missing data.
    """
    track = suite.tracks[track_name]
    parts = parts_of(defense, track.defenses[defense], f"{paths.suite}: tracks.{track_name}.defenses.{defense}")
    folder = paths.defended(track_name, defense, checkpoint_name)
    scratch = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    for dataset in track.datasets:
        for seed in suite.protocol.seeds:
            task = Tuning(suite, track, parts, dataset, seed, checkpoint, paths)
            shutil.copytree(_tuned(task), scratch / artefact_name(parts, dataset, seed), dirs_exist_ok=True)
    replace_folder(scratch, folder)


def load_artefact(folder: Path, parts: list[Part], checkpoint: Checkpoint) -> tuple[ArtefactCard, DefendedCLIP | None]:
    """The artefact in ``folder`` on its checkpoint; no model if its training diverged.

    Raises:
        UserError: It is missing, was changed, or belongs to another checkpoint.
    """
    path = folder / "artefact.json"
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
        model = part.module.load(load_file(file), model, part.options)
    return card, model


def weights_hash(model: torch.nn.Module) -> str:
    """Hash over all tensors, to prove that frozen weights stayed frozen."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _tuned(task: Tuning) -> Path:
    """Folder of the finished artefact in the store; tuned only if no run has finished it before."""
    folder = task.paths.store / "artefacts" / task.key
    if not (folder / "artefact.json").exists():
        scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
        scratch.mkdir(parents=True)
        card = _fit(task, scratch)
        (scratch / "artefact.json").write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
        replace_folder(scratch, folder)
    return folder


def _fit(task: Tuning, folder: Path) -> ArtefactCard:
    """Tune all parts, one after the other, and write their tensors into ``folder``."""
    clip, start, reason, tuned, samples = task.checkpoint.clip, time.monotonic(), "", 0, 0
    victim = DefendedCLIP(StagedCLIP(clip))
    clip.model.requires_grad_(False)
    frozen = weights_hash(clip.model)
    try:
        for part in task.parts:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(task.seed)
                data = task.data_for(part)
                tensors: Tensors = part.module.fit(victim, data, part.options)
            stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(stored, folder / f"{part.name}.safetensors")
            tuned += tuned_parameters(part.module, tensors)
            samples = max(samples, training_samples(part.module, data, part.options))
            victim = part.module.load(tensors, victim, part.options)
    except FloatingPointError as error:
        reason = str(error)
    if weights_hash(clip.model) != frozen:
        raise RuntimeError(f"'{task.parts[-1].name}' changed the frozen weights of its checkpoint; fit must not")
    return ArtefactCard(
        **task.identity,
        state="diverged" if reason else "done",
        reason=reason,
        tuned_parameters=tuned,
        training_samples=samples,
        files={path.stem: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))},
        wall_s=round(time.monotonic() - start, 3),
        peak_memory_mb=peak_memory_mb(),
        provenance=provenance(),
    )


def tuned_parameters(module: Any, tensors: dict[str, Tensor]) -> int:
    """How many numbers a defense tuned: all that it stores, unless its file says otherwise."""
    if hasattr(module, "tuned_parameters"):
        return int(module.tuned_parameters(tensors))
    return sum(tensor.numel() for tensor in tensors.values())


def training_samples(module: Any, data: Labelled | Pairs | None, options: Options) -> int:
    """How many images or pairs a defense was tuned on: all that it was handed, unless its file says otherwise."""
    if hasattr(module, "training_samples"):
        return int(module.training_samples(data, options))
    return 0 if data is None else len(data.images)


def task_of(manifest: Manifest) -> Task:
    """The classes of a dataset and their template."""
    return Task(manifest.description.class_names, manifest.description.template)
