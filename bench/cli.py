"""The ``bench`` command: one thin function per verb. Imports are inside, so that light verbs start fast."""

import errno
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bench.config import Suite, load_suite
from bench.errors import UserError, unknown
from bench.paths import DEFAULT_SUITE, Paths, paths_for

if TYPE_CHECKING:
    from bench.evaluation.record import Record

app = typer.Typer(
    help="A reproducible benchmark of vision-language models under adversarial examples and backdoors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
_console = Console(stderr=True)
SuiteOption = Annotated[Path, typer.Option("--suite", help="The suite's benchmark.yaml.")]


def main() -> None:
    """Run the command; mistakes of the user end in one message and exit code 2."""
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
def fetch(dataset: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Get a dataset: its images and its manifest."""
    from bench.datasets.store import build
    from bench.items import item_options, load_item

    paths, loaded = _open(suite)
    _known("dataset", dataset, loaded.datasets)
    module = load_item("datasets", dataset, f"{suite}: datasets")
    options = item_options(module, loaded.datasets[dataset], f"{suite}: datasets.{dataset}")
    manifest = build(dataset, options, module.fetch, paths.data)
    sizes = ", ".join(f"{name} {split.count}" for name, split in manifest.splits.items())
    _console.print(f"{dataset}: {sizes}")


@app.command()
def checkpoint(name: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Make a checkpoint: a clean or a backdoored model."""
    from bench.backdoors.make import make_checkpoint

    paths, loaded = _open(suite)
    _known("checkpoint", name, loaded.checkpoints)
    with _training_may_diverge():
        made = make_checkpoint(name, loaded.checkpoints[name], paths.data, paths.checkpoint(name), str(suite))
    gate = made.card.gate
    if gate is not None:
        verdict = "passed" if gate.passed else "[bold red]attack_failed[/]"
        _console.print(f"{name}: {verdict}; ASR {gate.asr:.1f} %, CA {gate.ca:.1f} % (clean {gate.clean_ca:.1f} %)")


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
def defend(track: str, defense: str, checkpoint: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Tune a defense on a checkpoint, for every dataset and seed of the track."""
    from bench.backdoors.checkpoint import load_checkpoint
    from bench.defenses.artefact import fit_all

    paths, loaded = _open(suite)
    _known("track", track, loaded.tracks)
    _known("defense", defense, loaded.tracks[track].defenses)
    _known("checkpoint", checkpoint, loaded.checkpoints)
    fit_all(loaded, track, defense, checkpoint, load_checkpoint(paths.checkpoint(checkpoint)), paths)


@app.command()
def evaluate(
    track: Annotated[str, typer.Argument(help="A track of the suite.")] = "",
    defense: Annotated[str, typer.Argument(help="One of its defenses.")] = "",
    attack: Annotated[str, typer.Argument(help="One of its attacks.")] = "",
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
    """Evaluate a defense under an attack on all of its track, or a model of your own under several attacks."""
    paths, loaded = _open(suite)
    if model:
        from bench.evaluation.external import evaluate_external

        _known("dataset", dataset, loaded.datasets)
        _print_records(evaluate_external(loaded, model, dataset, split, attacks.split(","), paths, limit))
        return
    if not track:
        raise UserError("evaluate: give TRACK DEFENSE ATTACK, or --model FILE.py:FUNCTION --dataset ID --attacks ID,ID")
    from bench.evaluation.run import evaluate as run

    _known("track", track, loaded.tracks)
    _known("defense", defense, loaded.tracks[track].defenses)
    _known("attack", attack, loaded.attacks)
    _print_records(run(loaded, track, defense, attack, paths, limit))


@app.command()
def collect(suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Gather all records into cells.csv."""
    from bench.leaderboard.collect import write_cells

    paths, loaded = _open(suite)
    write_cells(loaded, paths)


@app.command()
def table(name: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Write one table, as CSV and Markdown, from cells.csv."""
    from bench.leaderboard.table import write_table

    paths, loaded = _open(suite)
    _known("table", name, loaded.tables)
    write_table(loaded, name, paths)


@app.command("list")
def list_(
    name: Annotated[str, typer.Argument(help="An item, to explain its options.")] = "",
    suite: SuiteOption = DEFAULT_SUITE,
) -> None:
    """List datasets, backdoors, attacks and defenses, or explain the options of one."""
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
    suite: SuiteOption = DEFAULT_SUITE,
) -> None:
    """Check that every value in cells.csv lies inside the intervals of another one; exit code 1 if not."""
    from bench.leaderboard.verify import read_cells, verify_boards

    expected = read_cells(committed)
    disagreements = verify_boards(expected, read_cells(_open(suite)[0].boards / "cells.csv"))
    for disagreement in disagreements:
        _console.print(disagreement, highlight=False)
    _console.print(f"{len(expected) - len(disagreements)} of {len(expected)} cells agree with {committed}")
    if disagreements:
        sys.exit(1)


@app.command()
def pretrain(
    folder: Annotated[Path, typer.Argument(help="Where to write weights.safetensors and card.json.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Fewer steps, for a trial.")] = None,
) -> None:
    """Train the mini CLIP that ships with the package."""
    from bench.clip.pretrain import PretrainOptions, pretrain_to

    pretrain_to(folder, PretrainOptions() if steps is None else PretrainOptions(steps=steps))


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


def _known(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in (names := list(known)):
        raise unknown(kind, name, names, "command line")
