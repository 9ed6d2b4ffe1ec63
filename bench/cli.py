"""The ``bench`` command: one thin function per verb. Imports are inside, so that light verbs start fast."""

import errno
import os
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bench.config import Suite, Track, load_suite
from bench.errors import UserError, unknown
from bench.leaderboard.submissions.cli import app as submit
from bench.lvlm.architecture import lvlm_architectures
from bench.lvlm.libraries import check_libraries
from bench.lvlm.room import is_lvlm, is_lvlm_track
from bench.paths import DEFAULT_SUITE, Paths, paths_for, suite_named

if TYPE_CHECKING:
    from bench.evaluation.record import Record

app = typer.Typer(
    help="A reproducible benchmark of vision-language models under adversarial examples and backdoors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(submit, name="submit")
_console = Console(stderr=True)
SuiteOption = Annotated[Path, typer.Option("--suite", help="The suite's benchmark.yaml.")]


def main() -> None:
    """Run the command; mistakes of the user end in one message and exit code 2."""
    # OpenMP's threads wait for each other by spinning, which takes ten times as long on a machine that does other work.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except UserError as error:
        _console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _console.print("[bold red]error:[/] the disk is full; what is finished is kept: free some space and run again")
        sys.exit(2)
    except KeyboardInterrupt:
        _console.print("stopped; what is finished is kept, the same command goes on from there")
        sys.exit(130)


@app.command()
def fetch(
    dataset: Annotated[str, typer.Argument(help="A dataset, or `all`.")],
    suite: SuiteOption = DEFAULT_SUITE,
    mirror: Annotated[
        str, typer.Option(envvar="BENCH_MIRROR", help="Server or folder with <dataset>/<file>, asked first.")
    ] = "",
    options: Annotated[str, typer.Option(help="Options as YAML, over those of the suite: '{size: 336}'.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be downloaded, and from where.")
    ] = False,
) -> None:
    """Get a dataset: its images and its manifest."""
    from bench.datasets.archives.orders import fetch_orders, orders_of
    from bench.datasets.archives.plan import show_plan

    paths, loaded = _open(suite)
    orders = orders_of(dataset, loaded, options, str(suite))
    if dry_run:
        show_plan(orders, paths.data, mirror)
        return
    for name, manifest in fetch_orders(orders, paths.data, mirror):
        sizes = ", ".join(f"{split} {entry.count}" for split, entry in manifest.splits.items())
        _console.print(f"{name}: {sizes}")


@app.command()
def steganography(suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Train the networks that ISSBA hides its secret with."""
    from bench.backdoors.steganography import SteganographyOptions, make_steganography
    from bench.config import parse

    paths, loaded = _open(suite)
    if not loaded.steganography:
        raise UserError(
            f"{suite}: it has no entry 'steganography', which ISSBA's networks are made from; name a suite with --suite"
        )
    options = parse(SteganographyOptions, loaded.steganography, f"{suite}: steganography")
    card = make_steganography(options, paths.data, paths.steganography)
    mean, low, high = card.psnr
    _console.print(
        f"steganography: {card.bit_accuracy:.2f} % of bits read, PSNR {mean:.1f} dB ({low:.1f} to {high:.1f})"
    )
    _console.print(f"changes that hide the same string are alike by {card.similarity:.2f}")


@app.command()
def checkpoint(name: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Make a checkpoint: a clean or a backdoored model."""
    from bench.planned import Absent, leave_note

    paths, loaded = _open(suite)
    _known("checkpoint", name, loaded.checkpoints)
    if lacking := Absent(loaded).checkpoint(name):
        leave_note(paths.checkpoint(name), lacking)
        return
    if is_lvlm(loaded.checkpoints[name]):
        check_libraries()
        from bench.lvlm.plant import make_checkpoint
    else:
        from bench.backdoors.make import make_checkpoint
    with _training_may_diverge():
        made = make_checkpoint(name, loaded.checkpoints[name], paths)
    gate = made.card.gate
    if gate is not None:
        verdict = "passed" if gate.passed else "[bold red]attack_failed[/]"
        control = f"on the clean model {gate.clean_asr:.1f} % and {gate.clean_ca:.1f} %"
        _console.print(f"{name}: {verdict}; ASR {gate.asr:.1f} %, CA {gate.ca:.1f} %; {control}")


@app.command()
def attacks(suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Write down what each attack depends on, so that a pipeline runs again what a change touches and no more."""
    from bench.evaluation.adversary import write_attacks

    paths, loaded = _open(suite)
    write_attacks(loaded, paths)


@app.command()
def surrogate(name: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Make a surrogate: a model that transfer attacks work on instead of the attacked one."""
    from bench.surrogates.folder import make_surrogate

    paths, loaded = _open(suite)
    _known("surrogate", name, loaded.surrogates)
    with _training_may_diverge():
        card = make_surrogate(loaded, name, paths)
    _console.print(f"{name}: {card.parameters:,} numbers in {paths.surrogate(name)}, made in {card.wall_s:.0f} s")


@app.command()
def defend(
    track: str,
    defense: Annotated[str, typer.Argument(help="One defense of the track; all of them if not given.")] = "",
    checkpoint: Annotated[str, typer.Argument(help="One checkpoint of the track; all of them if not given.")] = "",
    suite: SuiteOption = DEFAULT_SUITE,
) -> None:
    """Tune defenses on checkpoints, for every dataset and seed of the track."""
    paths, loaded = _open(suite)
    plan = _track(loaded, track)
    if is_lvlm_track(loaded, track):
        check_libraries()
        from bench.lvlm.fitting import fit_track
    else:
        from bench.defenses.fitting import fit_track
    defenses = _chosen("defense", defense, plan.defenses)
    fit_track(loaded, track, defenses, _chosen("checkpoint", checkpoint, plan.checkpoints), paths)


@app.command()
def evaluate(
    track: Annotated[str, typer.Argument(help="A track of the suite.")] = "",
    defense: Annotated[str, typer.Argument(help="One defense of the track; all of them if not given.")] = "",
    attack: Annotated[str, typer.Argument(help="One attack of the track; all of them if not given.")] = "",
    suite: SuiteOption = DEFAULT_SUITE,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many images per cell: a quick look, kept out of all tables.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Instead of a track: FILE.py:FUNCTION that returns a module, images in [0,1] to logits.")
    ] = "",
    dataset: Annotated[str, typer.Option(help="With --model: a fetched dataset.")] = "",
    attacks: Annotated[str, typer.Option(help="With --model: attacks of the suite, joined by commas.")] = "",
    split: Annotated[str, typer.Option(help="With --model: which part of the dataset.")] = "test",
) -> None:
    """Evaluate defenses under attacks on all of their track, or a model of your own under several attacks."""
    paths, loaded = _open(suite)
    if model:
        from bench.evaluation.external import evaluate_external

        _known("dataset", dataset, loaded.datasets)
        _print_records(evaluate_external(loaded, model, dataset, split, attacks.split(","), paths, limit))
        return
    if not track:
        raise UserError(
            "evaluate: give TRACK [DEFENSE] [ATTACK], or --model FILE.py:FUNCTION --dataset ID --attacks ID,ID"
        )
    plan = _track(loaded, track)
    if is_lvlm_track(loaded, track):
        check_libraries()
        from bench.lvlm.evaluate import evaluate as run
    else:
        from bench.evaluation.run import evaluate as run
    pairs = product(_chosen("defense", defense, plan.defenses), _chosen("attack", attack, plan.attacks))
    _print_records(chain.from_iterable(run(loaded, track, *pair, paths, limit) for pair in pairs))


@app.command()
def collect(
    suite: SuiteOption = DEFAULT_SUITE,
    committed: Annotated[bool, typer.Option(help="From the records in git, instead of those in results.")] = False,
) -> None:
    """Gather all records, and what was submitted, into cells.csv."""
    from bench.leaderboard.collect import write_cells

    paths, loaded = _open(suite)
    write_cells(loaded, paths, committed=committed)


@app.command()
def table(name: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Write one table from cells.csv, as CSV, Markdown and LaTeX."""
    from bench.leaderboard.table import write_table

    paths, loaded = _open(suite)
    _known("table", name, loaded.tables)
    write_table(loaded, name, paths)


@app.command()
def analyse(
    name: str,
    suite: SuiteOption = DEFAULT_SUITE,
    redraw: Annotated[bool, typer.Option("--redraw", help="Draw again from the CSV, without measuring.")] = False,
) -> None:
    """Measure one figure or analysis and write its CSV, with its picture or Markdown table."""
    from bench.analyses.run import analyse as run

    paths, loaded = _open(suite)
    _known("analysis", name, loaded.analyses)
    for path in run(loaded, name, paths, redraw=redraw):
        _console.print(str(path), highlight=False)


@app.command()
def report(
    suite: SuiteOption = DEFAULT_SUITE,
    out: Annotated[Path | None, typer.Option(help="The page; report.html beside the boards if not given.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Sample images per checkpoint and dataset; 0 for none.")] = 6,
) -> None:
    """Write one page with all boards, plots, sample images and gaps; it works from a file, without a network."""
    from bench.report.libraries import check_libraries

    check_libraries()
    from bench.report.page import write_report

    paths, loaded = _open(suite)
    page = out or paths.boards / "report.html"
    write_report(loaded, paths, page, samples)
    _console.print(f"{page}: {page.stat().st_size / 1e6:.1f} MB", highlight=False)


@app.command("list")
def list_(
    name: Annotated[str, typer.Argument(help="An item, to explain its options.")] = "",
    suite: SuiteOption = DEFAULT_SUITE,
) -> None:
    """List datasets, backdoors, attacks, defenses and analyses, or explain the options of one."""
    from bench.overview.listing import describe_item, kinds_of, list_items

    if not name:
        list_items(_open(suite)[1])
    for kind in kinds_of(name) if name else ():
        describe_item(kind, name)


@app.command()
def status(suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Show what is done, running, failed or missing, and the command that makes the rest."""
    from bench.overview.status import show_status

    paths, loaded = _open(suite)
    show_status(loaded, paths)


@app.command()
def estimate(
    suite: SuiteOption = DEFAULT_SUITE,
    survivors: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images taken to survive AutoAttack's first attack.")
    ] = 0.3,
) -> None:
    """Estimate time and memory of what is left to run, from a few measured batches."""
    from bench.overview.estimate import estimate as reckon
    from bench.overview.estimate import show_estimate

    paths, loaded = _open(suite)
    show_estimate(reckon(loaded, paths, survivors=survivors))


@app.command()
def plan(
    name: Annotated[str, typer.Argument(help="A paper of leaderboards/, or a suite's YAML file.")],
    images_per_second: Annotated[
        float,
        typer.Option(min=1e-6, help="Assumed speed of the accelerator: forward passes of ViT-B/32 at 224 pixels."),
    ] = 2000.0,
    survivors: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images taken to survive AutoAttack's first attack.")
    ] = 0.3,
) -> None:
    """Say what a paper's suite would take, what of it is missing here, and what is not implemented."""
    from bench.overview.plan import plan_suite, show_plan

    paths, loaded = _open(suite_named(name))
    show_plan(plan_suite(loaded, paths, images_per_second, survivors), images_per_second)


@app.command()
def rehearse(
    name: Annotated[
        str, typer.Argument(help="A paper of leaderboards/, or a suite's YAML file in a folder of its own.")
    ],
    out: Annotated[Path, typer.Option(help="A scratch folder; nothing outside it is written.")],
    limit: Annotated[
        int, typer.Option(min=1, help="Images per cell; below four, random models may leave none to attack.")
    ] = 4,
    architecture: Annotated[
        str, typer.Option(help="An architecture of open_clip, which stands for all of the suite's.")
    ] = "ViT-B-32-quickgelu",
) -> None:
    """Run a suite made small, with random weights, from data to tables and figures; its numbers mean nothing."""
    from bench.rehearsal.run import rehearse as run

    _print_records(run(suite_named(name), limit, out, architecture))
    _console.print(f"tables: {paths_for(suite_named(name)).below(out).boards}", highlight=False)


@app.command()
def doctor(suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Check environment, devices, weights, data and disk; exit code 1 if something is amiss."""
    from bench.overview.doctor import doctor as examine

    paths, loaded = _open(suite)
    if not examine(loaded, paths):
        sys.exit(1)


@app.command()
def check(suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Validate every option of a suite, before anything runs."""
    from bench.overview.check import check_suite

    faults = check_suite(_open(suite)[1], suite)
    if faults:
        raise UserError("\n".join(faults))
    _console.print(f"{suite}: all options are valid")


@app.command()
def verify(
    committed: Annotated[Path, typer.Argument(help="The cells.csv to agree with, such as the one that git holds.")],
    others: Annotated[
        list[Path] | None, typer.Argument(help="Cells of the same suite on other machines, which widen the intervals.")
    ] = None,
    suite: SuiteOption = DEFAULT_SUITE,
) -> None:
    """Check that every value in cells.csv lies inside the intervals of another one; exit code 1 if not."""
    from bench.leaderboard.verify import read_cells, verify_boards

    expected, elsewhere = read_cells(committed), [read_cells(path) for path in others or ()]
    disagreements = verify_boards(expected, read_cells(_open(suite)[0].boards / "cells.csv"), elsewhere)
    for disagreement in disagreements:
        _console.print(disagreement, highlight=False)
    _console.print(f"{len(expected) - len(disagreements)} of {len(expected)} cells agree with {committed}")
    if disagreements:
        sys.exit(1)


@app.command()
def pretrain(name: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Train a small model from scratch, such as those that ship with the package."""
    paths, loaded = _open(suite)
    _known("pretraining", name, loaded.pretraining)
    spec, where = loaded.pretraining[name], f"{suite}: pretraining.{name}"
    if spec.architecture in lvlm_architectures():
        check_libraries()
        from bench.lvlm.pretrain import pretrain_to as pretrain_lvlm

        with _training_may_diverge():
            made = pretrain_lvlm(paths.pretrained(name), spec, where)
        kinds = ", ".join(f"{kind} {percent:.1f}" for kind, percent in made.accuracy.items())
        _console.print(f"{name}: right answers {kinds}; {paths.pretrained(name)}", highlight=False)
        return
    from bench.clip.pretrain import pretrain_to

    with _training_may_diverge():
        card = pretrain_to(paths.pretrained(name), spec, paths.data, where)
    accuracies = ", ".join(f"{dataset} {splits['test']:.1f}" for dataset, splits in card.zero_shot.items() if splits)
    _console.print(f"{name}: zero-shot accuracy {accuracies}; {paths.pretrained(name)}", highlight=False)


def _print_records(records: "Iterable[Record]") -> None:
    """One line per record: what it is about, its value and interval or why there is none, and its flags."""
    for record in records:
        cell = record.identity.cell
        interval = f"{record.metric} {record.value:.1f} % [{record.low:.1f}, {record.high:.1f}]" if record.n else ""
        told = f"{record.state} {interval or record.reason} {' '.join(record.flags)}"
        _console.print(f"{cell.attack} on {cell.name}: {told}", highlight=False, markup=False)


@contextmanager
def _training_may_diverge() -> Generator[None]:
    """A loss that is not finite is told like any other mistake in the settings."""
    try:
        yield
    except FloatingPointError as error:
        raise UserError(str(error)) from error


def _open(suite: Path) -> tuple[Paths, Suite]:
    return paths_for(suite), load_suite(suite)


def _track(suite: Suite, name: str) -> Track:
    _known("track", name, suite.tracks)
    return suite.tracks[name]


def _chosen(kind: str, name: str, known: Iterable[str]) -> list[str]:
    """The one that is named, or all if none is."""
    if name:
        _known(kind, name, known)
    return [name] if name else list(known)


def _known(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in (names := list(known)):
        raise unknown(kind, name, names, "command line")
