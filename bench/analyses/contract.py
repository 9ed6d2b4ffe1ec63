"""What an analysis file holds: one figure, or one table that is more than a pivot of the cells.

``Options``: a closed, frozen pydantic model; what it names in the suite is a ``subjects.references.Reference``.
``measure(source, options) -> pd.DataFrame``: all numbers, one observation a line; written to ``<name>.csv``.
``draw(frame, options) -> Figure`` and ``table(frame, options) -> str``, at least one of them: a picture, and Markdown,
made from the frame alone as it is read back from the CSV.
"""

from typing import NamedTuple, Protocol

import pandas as pd
from matplotlib.figure import Figure

from bench.config import Options, Suite
from bench.paths import Paths


class Source(NamedTuple):
    """What is there to be analysed.

    Attributes:
        suite: The benchmark.
        paths: Where its results and models are.
        name: Id of the analysis in the suite.
    """

    suite: Suite
    paths: Paths
    name: str

    @property
    def where(self) -> str:
        """File and key of the analysis, for messages."""
        return f"{self.paths.suite}: analyses.{self.name}"


class Measure(Protocol):
    """The ``measure`` function of an analysis file."""

    def __call__(self, source: Source, options: Options) -> pd.DataFrame:
        """Measure; what ``options`` names has been checked to exist."""
        ...


class Draw(Protocol):
    """The ``draw`` function of an analysis file."""

    def __call__(self, frame: pd.DataFrame, options: Options) -> Figure:
        """Draw the picture."""
        ...


class Write(Protocol):
    """The ``table`` function of an analysis file."""

    def __call__(self, frame: pd.DataFrame, options: Options) -> str:
        """Write the table and how to read it, as Markdown without a heading."""
        ...
