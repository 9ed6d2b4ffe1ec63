"""``bench submit``: one thin function per verb."""

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.common import SuiteOption, open_suite
from bench.config import parse
from bench.errors import UserError
from bench.paths import DEFAULT_SUITE
from bench.progress import console

app = typer.Typer(help="Submit a defense, a result or a stronger evaluation.", no_args_is_help=True)
_Folder = Annotated[Path, typer.Argument(help="The submission's folder; its name becomes the submission's.")]
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
    suite: SuiteOption = DEFAULT_SUITE,
) -> None:
    """Make a submission from the results on this machine."""
    from bench.leaderboard.submissions.pack import Request
    from bench.leaderboard.submissions.pack import pack as make

    content = {"kind": kind, "track": track, "defense": defense, "attack": attack, "against": against}
    request = parse(Request, content | {"images": images, "threat_model": threat_model}, "command line")
    paths, loaded = open_suite(suite)
    made = make(folder, request, loaded, paths)
    console.print(
        f"{folder}: {len(made.files)} files; fill in authors, contact, licence and references in submission.yaml, "
        f"then run: bench submit check {folder}"
    )


@app.command()
def check(folder: _Folder, recheck: _Recheck = False, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Check a submission; prints every reason to refuse it."""
    from bench.leaderboard.submissions.check import check as faults_of

    paths, loaded = open_suite(suite)
    faults = faults_of(folder, loaded, paths, recheck=recheck)
    if faults:
        raise UserError(f"{folder} is refused:\n" + "\n".join(faults))
    console.print(f"{folder}: all rules are met")


@app.command()
def add(folder: _Folder, recheck: _Recheck = False, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Take a submission into the tree and make the boards again."""
    from bench.leaderboard.submissions.add import add as take

    paths, loaded = open_suite(suite)
    take(folder, loaded, paths, recheck=recheck)
    console.print(f"{folder}: added; the boards are made again")
