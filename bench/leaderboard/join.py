"""The published number beside a measured one: from the suite's ids of a cell to those of ``published/*.csv``.

What the suite says is translated: the checkpoint by its trigger, the defense by its method, the attack's eps, and as
setting what its ``tuning`` says. What a paper does not give, such as the eps of a transfer attack, is not compared.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Any, NamedTuple

import pandas as pd

from bench.clip.small import small_architectures
from bench.config import Suite, TableSpec, TuningSpec
from bench.errors import UserError, unknown
from bench.leaderboard.published import AVERAGE, read_published
from bench.paths import Paths

_COMPARED = ("architecture", "checkpoint", "defense", "attack", "eps", "metric")
_ACTIVATION = "-quickgelu"  # part of open_clip's names, and no part of the papers'


class Published(NamedTuple):
    """A number as the paper prints it, with the line it stands on."""

    value: float
    decimals: int
    line: int

    def __str__(self) -> str:
        """The number with the decimals of the paper."""
        return f"{self.value:.{self.decimals}f}"


class Join(NamedTuple):
    """The published counterpart of a table.

    Attributes:
        suite: Whose ids are translated.
        spec: The table's description.
        lines: The published lines of that table.
        where: File and key of the description, for messages.
    """

    suite: Suite
    spec: TableSpec
    lines: pd.DataFrame
    where: str

    def find(self, cell: Mapping[str, str], datasets: Set[str] = frozenset()) -> Published | None:
        """The number that stands for a cell; None if the paper has none.

        Args:
            cell: Ids of a measured cell with its ``eps``; ``average`` as dataset for a mean over datasets.
            datasets: Over which ones; the paper's mean stands beside it only if it is over the same. Where the paper's
                table prints means alone, the suite's datasets are taken to be its own.

        Raises:
            UserError: Several numbers stand for it.
        """
        if cell["defense"] not in self.suite.tracks[cell["track"]].defenses:
            return None  # a submitted defense, which no paper has
        ids = self._translated(cell)
        if ids["dataset"] not in self._datasets:
            return None
        series = self.lines[self.lines["setting"] == ids["setting"]]
        for name in _COMPARED:
            series = series[series[name].isin([ids[name], ""])]
        found = series[series["dataset"] == ids["dataset"]]
        if len(found) > 1:
            told = "; ".join(f"{line.row}, {line.column}" for line in found.itertuples())
            raise UserError(f"{self.where}.joined: {dict(cell)} stands for several published numbers: {told}")
        if ids["dataset"] == AVERAGE and set(series["dataset"]) - {AVERAGE} not in (datasets, set[str]()):
            return None
        return next((Published(line.value, int(line.decimals), line.Index) for line in found.itertuples()), None)

    @property
    def _datasets(self) -> Set[str]:
        return set(self.lines["dataset"])

    def unmeasured(self, found: Iterable[Published | None]) -> pd.DataFrame:
        """The published lines that are not among those ``found``."""
        return self.lines.drop([number.line for number in found if number is not None])

    def _translated(self, cell: Mapping[str, str]) -> dict[str, Any]:
        suite, plan = self.suite, self.suite.tracks[cell["track"]]
        checkpoint = suite.checkpoints[cell["checkpoint"]]
        ids: dict[str, str] = {
            "architecture": checkpoint.base["architecture"].removesuffix(_ACTIVATION),
            "checkpoint": "clean" if checkpoint.trigger == "none" else checkpoint.trigger,
            "dataset": cell["dataset"],
            "defense": plan.method(cell["defense"]),
            "attack": suite.method_of(cell["attack"]),
            "eps": cell["eps"],
            "metric": cell["metric"],
            "setting": _setting(plan.defenses[cell["defense"]].tuning),
        }
        stated = [self.spec.joined.get(cell[name], {}) for name in ("checkpoint", "defense", "split", "attack")]
        for other in stated:
            ids |= other
        settings = {part for other in stated for part in other.get("setting", "").split(";") if part}
        return ids | ({"setting": ";".join(sorted(settings))} if settings else {})


def join(suite: Suite, spec: TableSpec, paths: Paths, where: str) -> Join | None:
    """What is needed to set published numbers beside those of a table; None if it mirrors none.

    Args:
        suite: The benchmark.
        spec: The table's description.
        paths: Where the papers' folders are: beside the suite's own.
        where: File and key of the description, for messages.

    Raises:
        UserError: The paper or its table does not exist, an id in ``joined`` is not one of the suite's, or the table
            shows the mini model, whose numbers are never mixed with published ones.
    """
    if not spec.published:
        return None
    plans = [suite.tracks[track] for track in spec.tracks]
    for name in {name for plan in plans for name in plan.checkpoints}:
        if suite.checkpoints[name].base["architecture"] in small_architectures():
            raise UserError(
                f"{where}.published: checkpoint '{name}' is a mini model, whose numbers are never set beside "
                "published ones; leave this key out"
            )
    known = {id_ for plan in plans for id_ in (*plan.checkpoints, *plan.defenses, *plan.splits, *plan.attacks)}
    for id_ in spec.joined:
        if id_ not in known:
            raise unknown("id", id_, known, f"{where}.joined")
    return Join(suite, spec, published_lines(paths, spec.published, f"{where}.published"), where)


def published_lines(paths: Paths, name: str, where: str) -> pd.DataFrame:
    """The readable lines of a published table, as ``bench.leaderboard.published.read_published`` gives them.

    Args:
        paths: Where the papers' folders are: beside the suite's own.
        name: Paper and table, such as ``rvpt/table_1``.
        where: File and key that name the table, for messages.

    Raises:
        UserError: The paper or its table does not exist.
    """
    paper, _, table = name.partition("/")
    published = read_published(paths.boards.parent / paper / "published")
    if table not in set(published["table"]):
        raise unknown("table", table, published["table"].unique(), where)
    return published[(published["table"] == table) & published["value"].notna()]


def _setting(tuning: TuningSpec) -> str:
    """What the tuning of a defense says, in the words of the published settings."""
    settings = {
        "shots": str(tuning.shots or ""),
        "target_class": "absent" if tuning.without_target else "",
        "tuned_on": tuning.dataset,
    }
    return ";".join(f"{key}={value}" for key, value in settings.items() if value)
