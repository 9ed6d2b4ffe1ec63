"""Whether a table shows what its paper claims: one defense above some others, wherever robust accuracy is measured."""

from collections.abc import Mapping
from typing import NamedTuple

from bench.config import TableSpec
from bench.leaderboard.position import NAMES, Place, Position


class Comparison(NamedTuple):
    """Two defenses in one place of a table.

    Attributes:
        ids: What the place is, by ``bench.leaderboard.position.NAMES``.
        above: The defense that the paper has above.
        below: The other one.
        values: Their robust accuracies in percent, in this order.
    """

    ids: Mapping[str, str]
    above: str
    below: str
    values: tuple[float, float]

    @property
    def holds(self) -> bool:
        """Whether the first is above the second, and not just as high."""
        return self.values[0] > self.values[1]


def comparisons(spec: TableSpec, found: Mapping[Place, Position]) -> list[Comparison]:
    """All that the description claims, where both defenses have a number; averages over columns are left out.

    Args:
        spec: The table's description.
        found: What is known of its positions.
    """
    places = dict[tuple[str, ...], dict[str, Position]]()
    for (_, column), position in found.items():
        if column is not None and position.entry.state == "done" and position.ids["metric"] == "RA":
            ids = tuple(position.ids[name] for name in NAMES if name != "defense")
            places.setdefault(ids, {})[position.ids["defense"]] = position
    return [
        Comparison(there[above].ids, above, below, (there[above].entry.mean, there[below].entry.mean))
        for there in places.values()
        for above, others in spec.above.items()
        for below in others
        if above in there and below in there
    ]


def told(spec: TableSpec, found: Mapping[Place, Position]) -> str:
    """Where the claims hold and where they do not, as Markdown; empty if nothing is claimed."""
    made = comparisons(spec, found)
    if not made:
        return ""
    claims = " and ".join(f"{_label(spec, above)} above {_names(spec, others)}" for above, others in spec.above.items())
    missed = [_sentence(spec, comparison) for comparison in made if not comparison.holds]
    shown = f"shows in {len(made) - len(missed)} of {len(made)} comparisons of robust accuracy"
    return "\n".join([f"The paper's order, {claims}, {shown}{':' if missed else '.'}", *(missed and ["", *missed])])


def _sentence(spec: TableSpec, comparison: Comparison) -> str:
    first, second = (f"{value:.{spec.decimals}f}" for value in comparison.values)
    place = ", ".join(
        _label(spec, comparison.ids[name]) for name in ("attack", "dataset", "split") if comparison.ids[name]
    )
    return f"- not under {place}: {first} against {_label(spec, comparison.below)}'s {second}"


def _names(spec: TableSpec, ids: tuple[str, ...]) -> str:
    return ", ".join(_label(spec, id_) for id_ in ids)


def _label(spec: TableSpec, id_: str) -> str:
    return spec.names.get(id_, id_)
