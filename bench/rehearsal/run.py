"""A rehearsal: a paper's whole suite from data to tables and figures, on any machine, in minutes.

It runs the ordinary code of every kind of stage on a suite made small, with random weights, in a folder of its own.
Its numbers mean nothing; its records are marked with the limit, and no other suite takes them.
"""

import shutil
from pathlib import Path

import yaml

from bench.analyses.run import analyse
from bench.backdoors.make import make_checkpoint
from bench.backdoors.steganography import SteganographyOptions, make_steganography
from bench.config import Suite, load_suite, parse
from bench.defenses.fitting import fit_track
from bench.evaluation.adversary import write_attacks
from bench.evaluation.record import Record
from bench.evaluation.run import evaluate
from bench.files import write_text
from bench.leaderboard.collect import write_cells
from bench.leaderboard.table import write_table
from bench.lvlm.room import is_lvlm, is_lvlm_track
from bench.paths import Paths, paths_for
from bench.progress import console
from bench.rehearsal.images import make_images
from bench.rehearsal.parts import Part, analyses_to_run, needs_of, parts_to_run
from bench.rehearsal.shrink import shrink
from bench.surrogates.folder import make_surrogate


def rehearse(path: Path, limit: int, out: Path, architecture: str) -> list[Record]:
    """Run the suite in ``path``, made small, below ``out``.

    Args:
        path: Its ``benchmark.yaml``, in a folder of its own.
        limit: Images per cell; from four on, some of them are attacked whatever the random model says.
        out: A folder; what an earlier rehearsal left in it is used again where it still fits.
        architecture: What stands, with random weights, for every architecture of the suite.

    Returns:
        All records.
    """
    paths = paths_for(path).below(out)
    small = shrink(load_suite(path), limit, architecture).model_dump(mode="json", exclude_defaults=True)
    write_text(paths.suite, yaml.safe_dump(small, sort_keys=False))
    suite = load_suite(paths.suite)
    if (path.parent / "published").exists():
        shutil.copytree(path.parent / "published", paths.boards / "published", dirs_exist_ok=True)
    parts = parts_to_run(suite)
    _prepare(suite, parts, paths)
    records = [record for part in parts for record in _run(suite, part, paths)]
    write_cells(suite, paths)
    for name in suite.tables:
        write_table(suite, name, paths)
    for name in analyses_to_run(suite):
        analyse(suite, name, paths)
    return records


def _run(suite: Suite, part: Part, paths: Paths) -> list[Record]:
    """Tune the defenses of a part, and test them."""
    records = list[Record]()
    fit, ask = fit_track, evaluate
    if is_lvlm_track(suite, part.track):
        from bench.lvlm.evaluate import evaluate as ask
        from bench.lvlm.fitting import fit_track as fit
    for checkpoint, defenses in part.tuned.items():
        fit(_cut(suite, part, (checkpoint,)), part.track, defenses, [checkpoint], paths)
    for test in part.tests:
        cut = _cut(suite, part._replace(datasets=part.datasets[:1]), test.checkpoints)
        for attack in test.attacks:
            records += ask(cut, part.track, test.defense, attack, paths)
    return records


def _cut(suite: Suite, part: Part, checkpoints: tuple[str, ...]) -> Suite:
    """``suite`` with no more of a track than is run."""
    plan = suite.tracks[part.track].model_copy(update={"checkpoints": checkpoints, "datasets": part.datasets})
    return suite.model_copy(update={"tracks": {**suite.tracks, part.track: plan}})


def _prepare(suite: Suite, parts: list[Part], paths: Paths) -> None:
    """Data, checkpoints, surrogates, and what stands for attacks."""
    make_images(suite, paths.data)
    opened = [need.checkpoint for name in analyses_to_run(suite) for need in needs_of(suite, name)]
    checkpoints = list(dict.fromkeys([*(name for part in parts for name in part.tuned), *opened]))
    if any(suite.checkpoints[name].trigger == "issba" for name in checkpoints):
        options = parse(SteganographyOptions, suite.steganography, f"{paths.suite}: steganography")
        make_steganography(options, paths.data, paths.steganography)
    for name in checkpoints:
        make = make_checkpoint
        if is_lvlm(suite.checkpoints[name]):
            from bench.lvlm.plant import make_checkpoint as make
        make(name, suite.checkpoints[name], paths)
    for name in suite.surrogates:
        make_surrogate(suite, name, paths)
    write_attacks(suite, paths)
    console.print(f"{len(suite.datasets)} datasets, {len(checkpoints)} checkpoints", highlight=False)
