"""Tuning defenses of vision-language models: from a track's entry to artefacts, as ``bench/defenses/fitting.py``."""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from bench.config import Suite, parse
from bench.datasets.store import open_split, read_manifest
from bench.defenses.artefact import CARD, ArtefactCard, Part, artefact_name, parts_of
from bench.defenses.contract import Tensors
from bench.defenses.fitting import tuned_parameters
from bench.errors import UserError
from bench.files import empty_partial, locked, replace_folder, sha256_of
from bench.items import source_hash
from bench.lvlm.checkpoint import LvlmCheckpoint, load_checkpoint
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.poison import asked_of
from bench.lvlm.questions import Questions
from bench.lvlm.room import READING, misplaced
from bench.memory import peak_memory_mb
from bench.paths import Paths
from bench.planned import Absent, leave_note
from bench.processes import threads
from bench.provenance import provenance


class Fitting(NamedTuple):
    """One artefact to make: a defense on one checkpoint, with one seed."""

    parts: list[Part]
    pairs: str
    seed: int
    checkpoint: LvlmCheckpoint
    paths: Paths
    where: str

    @property
    def identity(self) -> dict[str, Any]:
        """All that the artefact depends on, as the card holds it."""
        return {
            "defense": "+".join(part.name for part in self.parts),
            "options": {part.name: part.options.model_dump(mode="json") for part in self.parts},
            "template": "",
            "checkpoint": self.checkpoint.digest,
            "data": self.data(self.parts),
            "seed": self.seed,
            "shots": 0,
            "left_out": "",
            "left_out_named": False,
            "sources": {part.name: source_hash(part.module) for part in self.parts},
        }

    @property
    def key(self) -> str:
        """Hash of the identity."""
        return _hash(self.identity)

    def data(self, parts: Sequence[Part]) -> dict[str, str]:
        """Hashes of the questions or images, and of the files, that ``parts`` are made from."""
        asking = any(part.module.TUNES_ON in READING for part in parts) and self.pairs
        files = [path for part in parts if hasattr(part.module, "reads") for path in part.module.reads(part.options)]
        questions = {self.pairs: read_manifest(self.paths.data, self.pairs).digest} if asking else {}
        return questions | {str(path): sha256_of(path) for path in files}


def fit_track(suite: Suite, track_name: str, defenses: Sequence[str], checkpoints: Sequence[str], paths: Paths) -> None:
    """Tune defenses on checkpoints; a note stands in for one that needs what is planned only.

    Raises:
        UserError: Wrong options, missing data, or a defense of other models.
    """
    absent, track = Absent(suite), suite.tracks[track_name]
    for name in checkpoints:
        for defense in defenses:
            folder = paths.defended(track_name, defense, name)
            if lacking := absent.checkpoint(name) + absent.defense(track_name, defense):
                leave_note(folder, lacking)
                continue
            where = f"{paths.suite}: tracks.{track_name}.defenses.{defense}"
            parts, checkpoint = lvlm_parts(suite, track_name, defense, where), load_checkpoint(paths.checkpoint(name))
            scratch = empty_partial(folder)
            for seed in suite.protocol.seeds:
                made = _fitted(Fitting(parts, track.pairs, seed, checkpoint, paths, where))
                target = scratch / artefact_name(parts, "", seed)
                target.mkdir()
                for path in made.iterdir():
                    (target / path.name).write_bytes(path.read_bytes())
            replace_folder(scratch, folder)


def lvlm_parts(suite: Suite, track_name: str, defense: str, where: str) -> list[Part]:
    """The parts of a defense.

    Raises:
        UserError: As ``parts_of``, or a part is for other models.
    """
    parts = parts_of(suite.tracks[track_name], defense, where)
    for part in parts:
        if reason := misplaced(part.module, part.name, lvlm=True):
            raise UserError(f"{where}: {reason}")
    return parts


def load_defended(
    folder: Path, parts: list[Part], checkpoint: LvlmCheckpoint
) -> tuple[ArtefactCard, DefendedLvlm | None]:
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
    model = DefendedLvlm(checkpoint.lvlm)
    for part in parts:
        file = folder / f"{part.name}.safetensors"
        if not file.exists() or sha256_of(file) != card.files[part.name]:
            raise UserError(f"{file} is missing or was changed since the defense was tuned; tune it again")
        model = part.module.load(load_file(file), model, part.options)
    return card, model


def _fitted(task: Fitting) -> Path:
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
    """Tune the parts one after the other, each on the model that those before it left."""
    start, tuned, samples, victim = time.monotonic(), 0, 0, DefendedLvlm(task.checkpoint.lvlm)
    reason = ""
    for part in task.parts:
        data = questions_of(part, task.pairs, task.paths, task.where)
        file = folder / f"{part.name}.safetensors"
        try:
            if getattr(part.module, "IGNORES_VICTIM", False):
                shutil.copyfile(_shared(task, part, victim, data), file)
            else:
                _write(_tuned(task, part, victim, data), file)
        except FloatingPointError as error:
            reason = str(error)
            break
        tensors = load_file(file)
        tuned += tuned_parameters(part.module, tensors)
        samples = max(samples, _samples(part, data))
        victim = part.module.load(tensors, victim, part.options)
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


def _shared(task: Fitting, part: Part, victim: DefendedLvlm, data: Questions | None) -> Path:
    """The tensors of a part that is the same on all checkpoints, in the store; tuned once."""
    identity = [part.name, part.options.model_dump(mode="json"), task.data([part]), task.seed, source_hash(part.module)]
    file = task.paths.store / "artefacts" / f"{_hash(identity)}.safetensors"
    with locked(file.with_name(f".{file.name}.lock")):
        if not file.exists():
            scratch = file.with_name(f".{file.name}.partial")
            _write(_tuned(task, part, victim, data), scratch)
            scratch.replace(file)
    return file


def _tuned(task: Fitting, part: Part, victim: DefendedLvlm, data: Questions | None) -> Tensors:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        return part.module.fit(victim, data, part.options)


def _write(tensors: Tensors, file: Path) -> None:
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file)


def _samples(part: Part, data: Questions | None) -> int:
    """How many questions or images a part was tuned on."""
    if hasattr(part.module, "training_samples"):
        return int(part.module.training_samples(data, part.options))
    return 0 if data is None else min(len(data.images), getattr(part.options, "samples", 0))


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def questions_of(part: Part, pairs: str, paths: Paths, where: str) -> Questions | None:
    """Clean training questions or images, for a part that asks for them.

    Args:
        part: Of a defense.
        pairs: Dataset of the track's ``pairs``; empty if it names none.
        paths: Where the dataset is.
        where: File and key of the defense, for messages.

    Raises:
        UserError: The track names none, or no questions with an image each.
    """
    if part.module.TUNES_ON not in READING:
        return None
    if not pairs:
        raise UserError(f"{where}: '{part.name}' {READING[part.module.TUNES_ON]} under the track's 'pairs'")
    split = open_split(paths.data, read_manifest(paths.data, pairs), "train")
    if part.module.TUNES_ON == "images":
        return Questions(torch.from_numpy(split.images), [])
    asked = asked_of(split, f"{where} (pairs)")
    if len(split.owners):
        raise UserError(f"{where}: several questions are about one image of '{pairs}'; name other questions")
    return Questions(torch.from_numpy(split.images), list(asked.split.captions))
