"""A rehearsal: a paper's whole suite from data to tables, on any machine, in minutes.

It runs the ordinary code of every kind of stage on a suite made small, with random weights, in a folder of its own.
Its numbers mean nothing; its records are marked with the limit, and no other suite takes them.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from bench.backdoors.make import make_checkpoint
from bench.backdoors.steganography import SteganographyOptions, make_steganography
from bench.config import Suite, load_suite, parse
from bench.defenses.fitting import fit_track
from bench.evaluation.adversary import write_attacks
from bench.evaluation.record import Record
from bench.evaluation.run import evaluate
from bench.files import write_text
from bench.items import load_item
from bench.leaderboard.collect import write_cells
from bench.leaderboard.table import write_table
from bench.paths import Paths, paths_for
from bench.planned import Absent
from bench.progress import console
from bench.rehearsal.images import make_images
from bench.rehearsal.shrink import shrink
from bench.surrogates.folder import make_surrogate


class Part(NamedTuple):
    """A defense and the attacks that it is evaluated under."""

    track: str
    defense: str
    attacks: list[str]


def rehearse(path: Path, limit: int, out: Path) -> list[Record]:
    """Run the suite in ``path``, made small, below ``out``.

    Args:
        path: Its ``benchmark.yaml``, in a folder of its own.
        limit: Images per cell; from four on, some of them are attacked whatever the random model says.
        out: A folder; what an earlier rehearsal left in it is used again where it still fits.

    Returns:
        All records.
    """
    paths = paths_for(path).below(out)
    small = shrink(load_suite(path), limit).model_dump(mode="json", exclude_defaults=True)
    write_text(paths.suite, yaml.safe_dump(small, sort_keys=False))
    suite = load_suite(paths.suite)
    if (path.parent / "published").exists():
        shutil.copytree(path.parent / "published", paths.boards / "published", dirs_exist_ok=True)
    parts = list(parts_to_run(suite))
    _prepare(suite, parts, paths)
    records = list[Record]()
    for part in parts:
        fit_track(suite, part.track, [part.defense], suite.tracks[part.track].checkpoints, paths)
        for attack in part.attacks:
            records += evaluate(suite, part.track, part.defense, attack, paths)
    write_cells(suite, paths)
    for name in suite.tables:
        write_table(suite, name, paths)
    return records


def parts_to_run(suite: Suite) -> Iterator[Part]:
    """What shows everything once: each file of a defense, each way to tune it, each attack in its threat models.

    All else would run the same code again; its cells stay ``missing``. So do those of what is planned only.
    """
    absent, met = Absent(suite), set[tuple[str, ...]]()
    for track, plan in suite.tracks.items():
        if any(absent.checkpoint(name) for name in plan.checkpoints):
            continue
        # Undefended last, so that attacks are met with a defense where there is one.
        defenses = sorted(plan.defenses, key=lambda name: name == suite.control)
        for defense in (name for name in defenses if not absent.defense(track, name)):
            spec = plan.defenses[defense]
            tuning = spec.tuning.model_dump(exclude_defaults=True)
            kinds = {("method", plan.method(defense)), *(("tuning", key) for key in tuning)}
            if defense == suite.control:
                kinds |= {("trigger", suite.checkpoints[name].trigger) for name in plan.checkpoints}
            attacks = [attack for attack in plan.attacks if not absent.attack(attack)]
            first = {_kind(suite, attack): attack for attack in reversed(attacks)}
            new = [attack for kind, attack in reversed(first.items()) if ("attack", *kind) not in met]
            if new or not kinds <= met:
                met |= kinds | {("attack", *_kind(suite, attack)) for attack in new}
                yield Part(track, defense, new or attacks[:1])


def _kind(suite: Suite, attack: str) -> tuple[str, str]:
    """The file and the threat model; AutoAttack has no fewer steps to rehearse with, so one threat model is enough."""
    method = suite.method_of(attack)
    module = load_item("attacks", method, "attacks")
    long = module.METRIC == "RA" and "steps" not in module.Options.model_fields
    return method, "" if long else suite.attacks[attack].threat_model


def _prepare(suite: Suite, parts: list[Part], paths: Paths) -> None:
    """Data, checkpoints, surrogates, and what stands for attacks."""
    make_images(suite, paths.data)
    checkpoints = dict.fromkeys(name for part in parts for name in suite.tracks[part.track].checkpoints)
    if any(suite.checkpoints[name].trigger == "issba" for name in checkpoints):
        options = parse(SteganographyOptions, suite.steganography, f"{paths.suite}: steganography")
        make_steganography(options, paths.data, paths.steganography)
    for name in checkpoints:
        make_checkpoint(name, suite.checkpoints[name], paths)
    for name in suite.surrogates:
        make_surrogate(suite, name, paths)
    write_attacks(suite, paths)
    console.print(f"{len(suite.datasets)} datasets, {len(checkpoints)} checkpoints", highlight=False)
