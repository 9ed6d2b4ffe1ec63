"""The ``bench`` command: all its verbs at a glance. Their imports are inside them, so that light verbs start fast."""

import errno
import os
import sys

import typer
from rich.markup import escape

from bench.commands import planning, results, running, submit
from bench.errors import UserError
from bench.progress import console

_VERBS = {
    "Run a suite, stage by stage": [
        running.fetch,
        running.pretrain,
        running.steganography,
        running.checkpoint,
        running.surrogate,
        running.attacks,
        running.defend,
        running.evaluate,
    ],
    "Make and check its boards": [results.collect, results.table, results.analyse, results.report, results.verify],
    "See what there is, what is left and what it takes": [
        planning.list_,
        planning.status,
        planning.check,
        planning.doctor,
        planning.estimate,
        planning.plan,
        planning.rehearse,
    ],
}

app = typer.Typer(
    help="A reproducible benchmark of vision-language models under adversarial examples and backdoors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for _panel, _verbs in _VERBS.items():
    for _verb in _verbs:
        app.command(_verb.__name__.strip("_"), rich_help_panel=_panel)(_verb)
app.add_typer(submit.app, name="submit", rich_help_panel="Send something in")


def main() -> None:
    """Run the command; mistakes of the user end in one message and exit code 2."""
    # OpenMP's threads wait for each other by spinning, which takes ten times as long on a machine that does other work.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except UserError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        console.print("[bold red]error:[/] the disk is full; what is finished is kept: free some space and run again")
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("stopped; what is finished is kept, the same command goes on from there")
        sys.exit(130)
