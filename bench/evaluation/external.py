"""Evaluating a model from outside the suite: a user's Python file, under the suite's attacks and protocol."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import nn

from bench.attacks.contract import Knowledge
from bench.clip.model import weights_hash
from bench.config import Suite, ThreatModel
from bench.datasets.store import Manifest, read_manifest
from bench.defenses.artefact import task_of
from bench.device import compute_device, device_of
from bench.errors import UserError, unknown
from bench.evaluation.adversary import Attacker, Mean, load_attacker
from bench.evaluation.compute import Scene, compute, settle
from bench.evaluation.record import Cell, Identity, Record
from bench.evaluation.run import sample_of
from bench.evaluation.store import Store, key_of
from bench.files import sha256_of, write_text
from bench.items import source_hash
from bench.paths import Paths

CHECKPOINT = "external"
_SEEN: tuple[ThreatModel, ...] = ("none", "white_box", "transfer")


class External(NamedTuple):
    """A user's model.

    Attributes:
        name: Name of its file and function.
        model: Images in [0,1] to logits.
        source: Hash of the file.
        weights: Hash of the model's ``state_dict``.
    """

    name: str
    model: nn.Module
    source: str
    weights: str


def evaluate_external(
    suite: Suite, reference: str, dataset: str, split: str, attacks: Sequence[str], paths: Paths, limit: int | None
) -> list[Record]:
    """Compute (or find in the store) one cell per attack, and write their records.

    Args:
        suite: The attacks and the protocol.
        reference: ``my_file.py:function``; the function takes nothing and returns an ``nn.Module`` from images in
            [0,1], ``(n, 3, h, w)`` at the dataset's resolution, to logits ``(n, classes)`` in its order of classes.
        dataset: A fetched dataset.
        split: Which part of it.
        attacks: Ids in the suite; ``white_box``, ``transfer`` or none, for there is no undefended model.
        paths: Where everything is.
        limit: At most so many images, for a quick look; such records are marked, and not written as results.

    Raises:
        UserError: The file, the function or what it returns is not as it should be, or an attack does not apply.
    """
    attackers = [_attacker(suite, attack, paths) for attack in attacks]
    manifest = read_manifest(paths.data, dataset)
    external = load_external(reference)
    store, records = Store(paths.store), list[Record]()
    for attacker in attackers:
        cell = Cell(
            checkpoint=CHECKPOINT,
            defense=external.name,
            dataset=dataset,
            split=split,
            attack=attacker.name,
            threat_model=suite.attacks[attacker.name].threat_model,
            seed=suite.protocol.seeds[0],
            limit=limit,
        )
        identity = Identity(
            cell=cell,
            checkpoint=external.weights,
            artefact=external.source,
            manifest=manifest.digest,
            attack=source_hash(attacker.module),
            attack_options=attacker.options.model_dump(mode="json"),
            surrogates={surrogate.name: surrogate.digest for surrogate in attacker.surrogates},
            images=suite.attacks[attacker.name].sample(dataset),
            protocol=suite.protocol,
        )
        records.append(_record(identity, attacker, external, manifest, paths, store))
        if limit is None:
            file = paths.external(external.name) / f"{attacker.name}.{dataset}.{split}.json"
            write_text(file, records[-1].model_dump_json(indent=1) + "\n")
    return records


def load_external(reference: str) -> External:
    """The model that ``my_file.py:function`` returns, where it will compute, without parameter gradients.

    Raises:
        UserError: There is no such file or function, or it does not return a module.
    """
    file, _, function = reference.partition(":")
    path = Path(file)
    if path.suffix != ".py" or not function:
        raise UserError(f"--model {reference}: give a Python file and a function in it, such as my_file.py:load")
    if not path.exists():
        raise UserError(f"--model {reference}: {path} is missing")
    module = _imported(path)
    known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    if function not in known:
        raise unknown("function", function, known, f"--model {reference}")
    model = getattr(module, function)()
    if not isinstance(model, nn.Module):
        raise UserError(f"--model {reference}: {function}() returned a {type(model).__name__}, not a torch.nn.Module")
    model.to(compute_device()).eval().requires_grad_(False)
    return External(f"{path.stem}.{function}", model, sha256_of(path), weights_hash(model))


def _imported(path: Path) -> ModuleType:
    """The user's file, run as a module; it may import others beside it.

    Its text is read anew: Python's cache of compiled files takes one that was changed within a second, and is as long
    as before, for the old one.
    """
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    finally:
        sys.path.pop(0)
    return module


def _attacker(suite: Suite, attack: str, paths: Paths) -> Attacker:
    if attack not in suite.attacks:
        raise unknown("attack", attack, suite.attacks, "--attacks")
    attacker, threat_model = load_attacker(suite, attack, paths), suite.attacks[attack].threat_model
    if threat_model not in _SEEN or attacker.module.METRIC == "ASR":
        why = "planted trigger" if attacker.module.METRIC == "ASR" else "undefended model to craft images on"
        raise UserError(f"--attacks {attack}: a model from a file has no {why}; leave this attack out")
    return attacker


def _record(
    identity: Identity, attacker: Attacker, external: External, manifest: Manifest, paths: Paths, store: Store
) -> Record:
    cell, found = identity.cell, store.get(key_of(identity))
    if found is not None:
        return found
    rows, images, labels, classes = sample_of(paths.data, manifest, identity)
    task = task_of(manifest, classes=classes)
    _check_logits(external, images[:2], len(task.class_names), cell.dataset)
    surrogates = tuple(surrogate.model(task) for surrogate in attacker.surrogates)
    source, knowledge = Mean(surrogates) if surrogates else external.model, Knowledge(surrogates=surrogates)
    scene = Scene(identity, attacker, external.model, knowledge, images, labels, rows, None, 0, source)
    return settle(identity, attacker.module.METRIC, lambda finished, keep: compute(scene, finished, keep), store)


def _check_logits(external: External, images: torch.Tensor, classes: int, dataset: str) -> None:
    """Tell what is wrong with the model's output before anything is counted."""
    with torch.no_grad():
        logits = external.model(images.to(device_of(external.model)))
    if not isinstance(logits, torch.Tensor) or logits.shape != (len(images), classes):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(
            f"--model: '{external.name}' gives {got} for {len(images)} images of '{dataset}', which has {classes} "
            f"classes; ({len(images)}, {classes}) logits are needed"
        )
