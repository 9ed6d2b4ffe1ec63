"""Verbs that say what there is, what is left, what it takes, and whether it would run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.commands.common import SuiteOption, open_suite, print_records
from bench.errors import UserError
from bench.paths import DEFAULT_SUITE, paths_for, suite_named
from bench.progress import console


def list_(
    name: Annotated[str, typer.Argument(help="An item, to explain its options.")] = "",
    suite: SuiteOption = DEFAULT_SUITE,
) -> None:
    """List datasets, backdoors, attacks, defenses and analyses, or explain the options of one."""
    from bench.overview.listing import describe_item, kinds_of, list_items

    if not name:
        list_items(open_suite(suite)[1])
    for kind in kinds_of(name) if name else ():
        describe_item(kind, name)


def status(suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Show what is done, running, failed or missing, and the command that makes the rest."""
    from bench.overview.status import show_status

    paths, loaded = open_suite(suite)
    show_status(loaded, paths)


def check(suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Validate every option of a suite, before anything runs."""
    from bench.overview.check import check_suite

    faults = check_suite(open_suite(suite)[1], suite)
    if faults:
        raise UserError("\n".join(faults))
    console.print(f"{suite}: all options are valid")


def doctor(suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Check environment, devices, weights, data and disk; exit code 1 if something is amiss."""
    from bench.overview.doctor import doctor as examine

    paths, loaded = open_suite(suite)
    if not examine(loaded, paths):
        sys.exit(1)


def estimate(
    suite: SuiteOption = DEFAULT_SUITE,
    survivors: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images taken to survive AutoAttack's first attack.")
    ] = 0.3,
) -> None:
    """Estimate time and memory of what is left to run, from a few measured batches."""
    from bench.overview.estimate import estimate as reckon
    from bench.overview.estimate import show_estimate

    paths, loaded = open_suite(suite)
    show_estimate(reckon(loaded, paths, survivors=survivors))


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

    paths, loaded = open_suite(suite_named(name))
    show_plan(plan_suite(loaded, paths, images_per_second, survivors), images_per_second)


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

    print_records(run(suite_named(name), limit, out, architecture))
    console.print(f"tables: {paths_for(suite_named(name)).below(out).boards}", highlight=False)
