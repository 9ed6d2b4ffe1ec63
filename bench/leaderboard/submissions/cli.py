"""``bench submit``: one thin function per verb."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.config import load_suite, parse
from bench.errors import UserError
from bench.paths import DEFAULT_SUITE, paths_for

app = typer.Typer(help="Submit a defense, a result or a stronger evaluation.", no_args_is_help=True)
_console = Console(stderr=True)
_Folder = Annotated[Path, typer.Argument(help="The submission's folder; its name becomes the submission's.")]
_Suite = Annotated[Path, typer.Option("--suite", help="The suite's benchmark.yaml.")]
_Recheck = Annotated[
    bool, typer.Option("--recheck", help="Show the adversarial images to the row's model on this machine.")
]


@app.command()
def pack(
    folder: _Folder,
    kind: Annotated[str, typer.Option(help="defense, result or evaluation.")],
    track: Annotated[str, typer.Option(help="Track of the suite.")],
    defense: Annotated[str, typer.Option(help="Id of the row.")],
    attack: Annotated[str, typer.Option(help="One attack only; for an evaluation, the id of the stronger one.")] = "",
    against: Annotated[str, typer.Option(help="Attack that a stronger evaluation is held against.")] = "",
    images: Annotated[Path | None, typer.Option(help="Folder of adversarial images, for an evaluation.")] = None,
    threat_model: Annotated[str, typer.Option(help="What the maker of the images used.")] = "white_box",
    suite: _Suite = DEFAULT_SUITE,
) -> None:
    """Make a submission from the results on this machine."""
    from bench.leaderboard.submissions.pack import Request
    from bench.leaderboard.submissions.pack import pack as make

    content = {"kind": kind, "track": track, "defense": defense, "attack": attack, "against": against}
    request = parse(Request, content | {"images": images, "threat_model": threat_model}, "command line")
    made = make(folder, request, load_suite(suite), paths_for(suite))
    _console.print(
        f"{folder}: {len(made.files)} files; fill in authors, contact, licence and references in submission.yaml, "
        f"then run: bench submit check {folder}"
    )


@app.command()
def check(folder: _Folder, recheck: _Recheck = False, suite: _Suite = DEFAULT_SUITE) -> None:
    """Check a submission; prints every reason to refuse it."""
    from bench.leaderboard.submissions.check import check as faults_of

    faults = faults_of(folder, load_suite(suite), paths_for(suite), recheck=recheck)
    if faults:
        raise UserError(f"{folder} is refused:\n" + "\n".join(faults))
    _console.print(f"{folder}: all rules are met")


@app.command()
def add(folder: _Folder, recheck: _Recheck = False, suite: _Suite = DEFAULT_SUITE) -> None:
    """Take a submission into the tree and make the boards again."""
    from bench.leaderboard.submissions.add import add as take

    take(folder, load_suite(suite), paths_for(suite), recheck=recheck)
    _console.print(f"{folder}: added; the boards are made again")
