"""Running an analysis: numbers first, into a CSV; then the picture or the table, from that CSV alone."""

from pathlib import Path

import pandas as pd

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.subjects.references import faults_of, name_faults
from bench.config import Suite
from bench.errors import UserError
from bench.files import write_bytes, write_text
from bench.items import item_options, load_item
from bench.paths import Paths

# Enough for every figure, and few enough to be the same on two machines most of the time.
_DIGITS = "%.6g"
# Columns that hold names, which may look like numbers.
_IDS = (
    "model", "perturbation", "panel", "scenario", "bar", "version", "class", "defense", "checkpoint", "part",
    "condition", "view", "attack", "stage", "other", "line", "kind", "question", "answer", "defended",
)  # fmt: skip


def analyse(suite: Suite, name: str, paths: Paths, *, redraw: bool = False) -> list[Path]:
    """Write the files of one analysis beside ``cells.csv``.

    Args:
        suite: The benchmark.
        name: Id of the analysis.
        paths: Where everything is.
        redraw: Take the numbers from the CSV of an earlier run.

    Returns:
        What was written.

    Raises:
        UserError: The options are wrong, something that they name does not exist, or nothing is there to redraw.
    """
    spec, where = suite.analyses[name], f"{paths.suite}: analyses.{name}"
    module = load_item("analyses", spec.method, f"{where}.method")
    options = item_options(module, spec.options, f"{where}.options")
    faults = [*name_faults(suite, name, where), *faults_of(options, suite, f"{where}.options")]
    if faults:
        raise UserError("\n".join(faults))
    numbers, written = paths.boards / f"{name}.csv", list[Path]()
    if not redraw:
        write_text(numbers, to_csv(module.measure(Source(suite, paths, name), options)))
        written.append(numbers)
    elif not numbers.exists():
        raise UserError(f"{numbers} is missing; make it with: bench analyse {name} --suite {paths.suite}")
    frame = read_frame(numbers)
    if hasattr(module, "draw"):
        with style.look():
            write_bytes(numbers.with_suffix(".png"), style.png(module.draw(frame, options)))
        written.append(numbers.with_suffix(".png"))
    if hasattr(module, "table"):
        text = f"# {spec.title}\n\n{module.table(frame, options).strip()}\n"
        write_text(numbers.with_suffix(".md"), text)
        written.append(numbers.with_suffix(".md"))
    return written


def to_csv(frame: pd.DataFrame) -> str:
    """``frame`` as text, without its index."""
    return frame.to_csv(index=False, float_format=_DIGITS, lineterminator="\n")


def read_frame(path: Path) -> pd.DataFrame:
    """What ``to_csv`` wrote: ids stay text, and only an empty field is a missing value."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=dict.fromkeys(_IDS, "str"), low_memory=False)
