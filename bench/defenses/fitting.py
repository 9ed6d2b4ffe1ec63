"""Tuning defenses: from a track's entry to its artefacts, one for every dataset and seed.

Defenses joined by ``+`` are tuned one after the other, each on the model that the ones before it left; what two such
defenses begin with is tuned once. Finished artefacts are kept in the store under a hash of all that they depend on, so
a stage that was stopped goes on, and two suites that ask for the same artefact tune it once. Several are tuned at a
time, with one thread each: so results are the same on machines with few and with many cores.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.backdoors.checkpoint import Checkpoint, load_checkpoint
from bench.clip.defended import DefendedCLIP
from bench.clip.model import weights_hash
from bench.clip.staged import StagedCLIP
from bench.config import DefenseSpec, Options, Suite
from bench.datasets.halves import all_classes, base_classes
from bench.datasets.sampling import training_sample
from bench.datasets.store import open_split, read_manifest
from bench.defenses.artefact import CARD, ArtefactCard, Part, artefact_name, load_artefact, parts_of, task_of
from bench.defenses.contract import Labelled, Pairs, Tensors
from bench.errors import UserError
from bench.files import empty_partial, locked, replace_folder, sha256_of
from bench.items import source_hash
from bench.memory import peak_memory_mb
from bench.paths import Paths
from bench.planned import Absent, leave_note
from bench.processes import processes, side_by_side, threads
from bench.progress import track as progress
from bench.provenance import provenance


@dataclass(frozen=True)
class Fitting:
    """One artefact to make: a defense on one checkpoint, with one dataset and one seed.

    Attributes:
        spec: The defense's entry.
        parts: Its parts.
        dataset: Labelled images to tune on.
        pairs: Image-caption pairs to tune on; empty if the track names none.
        shots: Labelled images per class.
        seed: Of the training.
        checkpoint: What is defended.
        paths: Where everything is.
        where: File and key of the entry, for messages.
    """

    spec: DefenseSpec
    parts: list[Part]
    dataset: str
    pairs: str
    shots: int
    seed: int
    checkpoint: Checkpoint
    paths: Paths
    where: str

    @property
    def identity(self) -> dict[str, Any]:
        """All that the artefact depends on, as the card holds it."""
        names = {self._source(part) for part in self.parts} - {""}
        classes = self.spec.tuning.classes
        return {
            "defense": "+".join(part.name for part in self.parts),
            "options": {part.name: part.options.model_dump(mode="json") for part in self.parts},
            "template": self.spec.template,
            "checkpoint": self.checkpoint.digest,
            "data": {name: read_manifest(self.paths.data, name).digest for name in sorted(names)} | self._files(),
            "seed": self.seed,
            "shots": self.shots,
            "left_out": self._left_out(),
            "left_out_named": self.spec.tuning.target_named,
            # Only where it matters, for the key of what was tuned before there were halves.
            **({"classes": classes} if classes != "all" else {}),
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
            return Pairs(torch.from_numpy(train.images), train.captions)
        rows = training_sample(manifest, train.labels, self.shots, self.seed)
        kept = base_classes(manifest) if self.spec.tuning.classes == "base" else all_classes(manifest)
        rows = rows[train.labels[rows] < kept.stop]
        labelled = Labelled(train.batch(rows), train.targets(rows), task_of(manifest, self.spec.template, kept))
        return without_class(labelled, self._left_out(), named=self.spec.tuning.target_named)

    def _files(self) -> dict[str, str]:
        """Hash of every file that parts read."""
        reading = [part for part in self.parts if hasattr(part.module, "reads")]
        return {str(path): sha256_of(path) for part in reading for path in part.module.reads(part.options)}

    def _source(self, part: Part) -> str:
        """The dataset that ``part`` tunes on; empty if it needs none."""
        if part.module.TUNES_ON == "pairs" and not self.pairs:
            raise UserError(f"{self.where}: '{part.name}' tunes on captions; name them under the track's 'pairs'")
        return {"pairs": self.pairs, "labels": self.dataset, "nothing": ""}[part.module.TUNES_ON]

    def _left_out(self) -> str:
        """The class that is not tuned on; empty if all are."""
        if not self.spec.tuning.without_target:
            return ""
        if self.checkpoint.card.target is None:
            raise UserError(f"{self.where}.tuning.without_target: a clean checkpoint has no target to leave out")
        return self.checkpoint.card.target


class Order(NamedTuple):
    """One artefact of a track to tune."""

    defense: str
    checkpoint: str
    dataset: str
    seed: int


def fit_track(suite: Suite, track_name: str, defenses: Sequence[str], checkpoints: Sequence[str], paths: Paths) -> None:
    """Tune defenses on checkpoints; a note stands in for one that needs what is planned only.

    Raises:
        UserError: Wrong options or missing data.
    """
    absent, real = Absent(suite), list[tuple[str, str]]()
    for checkpoint, defense in product(checkpoints, defenses):
        lacking = absent.checkpoint(checkpoint) + absent.defense(track_name, defense)
        if lacking:
            leave_note(paths.defended(track_name, defense, checkpoint), lacking)
        else:
            real.append((checkpoint, defense))
    if processes() > 1:
        _fill_store(suite, track_name, real, paths)
    for checkpoint in checkpoints:
        open_checkpoint = cache(load_checkpoint)
        for defense in [defense for name, defense in real if name == checkpoint]:
            fit_all(suite, track_name, defense, checkpoint, open_checkpoint(paths.checkpoint(checkpoint)), paths)


def fit_all(
    suite: Suite, track_name: str, defense: str, checkpoint_name: str, checkpoint: Checkpoint, paths: Paths
) -> None:
    """Tune one defense on one checkpoint: for every dataset and seed of the track.

    Raises:
        UserError: Wrong options or missing data.
    """
    folder = paths.defended(track_name, defense, checkpoint_name)
    scratch = empty_partial(folder)
    for order in _orders(suite, track_name, defense, checkpoint_name):
        task = _fitting(suite, track_name, order, checkpoint, paths)
        name = artefact_name(task.parts, order.dataset, order.seed)
        shutil.copytree(_tuned(task), scratch / name, dirs_exist_ok=True)
    replace_folder(scratch, folder)


def _fill_store(suite: Suite, track_name: str, real: Sequence[tuple[str, str]], paths: Paths) -> None:
    """Tune what the store does not have, several artefacts at a time."""
    orders = [order for name, defense in real for order in _orders(suite, track_name, defense, name)]
    tuned = side_by_side(partial(_tune_alone, suite, track_name, paths), orders)
    for _ in progress(tuned, f"tune for {track_name}", len(orders)):
        pass


def _tune_alone(suite: Suite, track_name: str, paths: Paths, order: Order) -> None:
    """Tune one artefact in a process of its own."""
    _tuned(_fitting(suite, track_name, order, load_checkpoint(paths.checkpoint(order.checkpoint)), paths))


def _orders(suite: Suite, track_name: str, defense: str, checkpoint: str) -> list[Order]:
    datasets = suite.tracks[track_name].tuning_datasets(defense)
    return [Order(defense, checkpoint, *one) for one in product(datasets, suite.protocol.seeds)]


def _fitting(suite: Suite, track_name: str, order: Order, checkpoint: Checkpoint, paths: Paths) -> Fitting:
    track, where = suite.tracks[track_name], f"{paths.suite}: tracks.{track_name}.defenses.{order.defense}"
    return Fitting(
        spec=track.defenses[order.defense],
        parts=parts_of(track, order.defense, where),
        dataset=order.dataset,
        pairs=track.pairs,
        shots=suite.shots(track_name, order.defense),
        seed=order.seed,
        checkpoint=checkpoint,
        paths=paths,
        where=where,
    )


def without_class(data: Labelled, name: str, *, named: bool) -> Labelled:
    """``data`` without the images of one class; ``data`` itself if it has no such class.

    Args:
        data: Labelled images.
        name: The class to leave out.
        named: Keep its name among those to tell apart; else it is met for the first time in testing.
    """
    names = data.task.class_names
    if name not in names:
        return data
    left_out = names.index(name)
    kept = data.labels != left_out
    if named:
        return Labelled(data.images[kept], data.labels[kept], data.task)
    labels = data.labels - (data.labels > left_out).long()
    others = (*names[:left_out], *names[left_out + 1 :])
    return Labelled(data.images[kept], labels[kept], data.task._replace(class_names=others))


def _tuned(task: Fitting) -> Path:
    """Folder of the finished artefact in the store; tuned only if no run has finished it before."""
    folder = task.paths.store / "artefacts" / task.key
    with locked(folder.with_name(f".{folder.name}.lock")):
        if not (folder / CARD).exists():
            scratch = empty_partial(folder)
            with threads(1):
                card = _fit(task, scratch)
            (scratch / CARD).write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
            replace_folder(scratch, folder)
    return folder


def _fit(task: Fitting, folder: Path) -> ArtefactCard:
    """Tune the last part on what the ones before it left, and write the tensors of all into ``folder``."""
    clip, part = task.checkpoint.clip, task.parts[-1]
    clip.model.requires_grad_(False)
    frozen = weights_hash(clip.model)
    before, victim = _before(task, folder)
    start, reason, tuned, samples = time.monotonic(), "", 0, 0
    if before is not None:
        reason, tuned, samples = before.reason, before.tuned_parameters, before.training_samples
        start -= before.wall_s
    try:
        if victim is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(task.seed)
                data = task.data_for(part)
                tensors: Tensors = part.module.fit(victim, data, part.options)
            stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            save_file(stored, folder / f"{part.name}.safetensors")
            tuned += tuned_parameters(part.module, tensors)
            samples = max(samples, training_samples(part.module, data, part.options))
    except FloatingPointError as error:
        reason = str(error)
    if weights_hash(clip.model) != frozen:
        raise RuntimeError(f"'{part.name}' changed the frozen weights of its checkpoint; fit must not")
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


def _before(task: Fitting, folder: Path) -> tuple[ArtefactCard | None, DefendedCLIP | None]:
    """What the parts before the last one left, their tensors copied into ``folder``; the model is None if one diverged.

    They are an artefact of their own, so defenses that begin alike tune that beginning once.
    """
    if len(task.parts) == 1:
        return None, DefendedCLIP(StagedCLIP(task.checkpoint.clip))
    parts = task.parts[:-1]
    source = _tuned(replace(task, parts=parts))
    for part in parts:
        if (source / f"{part.name}.safetensors").exists():
            shutil.copy(source / f"{part.name}.safetensors", folder)
    return load_artefact(source, parts, task.checkpoint)


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
