"""A table for people: values with their uncertainty, and what one must know to read them."""

from collections.abc import Callable, Iterator
from typing import Any

from tabulate import tabulate

from bench.config import Column, Suite
from bench.leaderboard import signs
from bench.leaderboard.collect import CONTROL_SURVIVES
from bench.leaderboard.pivot import Key, Pivot
from bench.leaderboard.position import Place, Position
from bench.leaderboard.submissions.merge import NOT_RECHECKED
from bench.leaderboard.words import written

_PLACE: tuple[Column, ...] = ("dataset", "split", "checkpoint")
_MEANING = {
    "randomised": "the model gave the same image different logits, so an attack without averaging is too weak",
    "probabilities": "the model returned probabilities instead of logits, which flattens the gradients of the loss",
    "quantised_input": "a change far below one grey level moved no logit, so the input is rounded and gradients fail",
    "saturated_logits": "one class led so far that cross-entropy had no gradient; attacks on margins may be stronger",
    "zero_gradient": "some images had no input gradient at all, so attacks that follow it are too weak",
    "uninformative_gradient": "a step along the gradient raised the loss no more than a random step",
    "dynamic": "the defense may change its behaviour at test time",
    "square_beats_gradients": "an attack without gradients beat those with gradients, so the gradients may be masked",
    NOT_RECHECKED: "submitted, and not repeated by a maintainer",
    "few_classes": "the attack does not exist for so few classes, and its nearest relative stood in",
    "batch_halved": "memory ran out and the attack's batches were halved, and with them its noise was drawn otherwise",
    "nan": "the attack returned NaN for some images, which were counted as not attacked",
    CONTROL_SURVIVES: "the undefended control survived this attack, so the attack is too weak to tell defenses apart",
}


def markdown(pivot: Pivot, suite: Suite, found: dict[Place, Position], board: list[dict[str, Any]]) -> str:
    """The table as Markdown, with notes below it and the defenses ranked by what is worst known of them.

    Args:
        pivot: The table.
        suite: Where its cells come from.
        found: What is known of its positions.
        board: The ranking of its defenses.
    """
    lines = pivot.lines(lambda row, column: written(found[row, column], pivot.spec.decimals))
    body = tabulate(lines, pivot.header(), tablefmt="pipe", disable_numparse=True, colalign=pivot.sides())
    notes = [
        *([f"**A rehearsal with random weights and {suite.limit} images per cell.**"] if suite.limit else []),
        *(f"**{sentence}**" for sentence in survivals(pivot, suite)),
        *(_reading(pivot), _published(pivot, found), _images(pivot), _threat_models(pivot)),
        *(_flags(pivot), signs.told(pivot.spec, found), _ranking(pivot, board)),
    ]
    return "\n\n".join([f"# {pivot.spec.title}", body, *filter(None, notes)]) + "\n"


def _published(pivot: Pivot, found: dict[Place, Position]) -> str:
    if not pivot.spec.published:
        return ""
    beside = sum(position.published is not None for position in found.values())
    return (
        f"After the semicolon: the number that {pivot.spec.published} prints, and measured minus published in points; "
        f"{beside} of {len(found)} positions have one."
    )


def _ranking(pivot: Pivot, board: list[dict[str, Any]]) -> str:
    """Defenses by the mean of what is worst known over the table's places, and the metric that says so."""
    if not board:
        return ""
    tracks = ["track"] if len(pivot.spec.tracks) > 1 else []
    header = ["rank", *tracks, "defense", "metric", "worst known"]
    lines = [
        [
            str(line["rank"] or "-"),
            *(pivot.label("track", line["track"]) for _ in tracks),
            pivot.label("defense", line["defense"]),
            pivot.label("metric", line["metric"]),
            "-" if line["worst_known"] is None else f"{line['worst_known']:.{pivot.spec.decimals}f}",
        ]
        for line in board
    ]
    sides = ["right", *["left"] * (len(header) - 2), "right"]
    body = tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=sides)
    return (
        "## Ranking\n\nBy the lowest robust accuracy (RA) or the highest attack success (ASR) that any evaluation "
        "found, submitted ones included; the mean over the table's places where the control falls and the backdoor was "
        f"planted.\n\n{body}"
    )


def meaning(flag: str) -> str:
    """What a flag says about a result."""
    return _MEANING.get(flag, "a warning of the attack itself")


def survivals(pivot: Pivot, suite: Suite) -> list[str]:
    """A sentence for each attack under which the undefended control kept more than it should, with the places."""
    attacks = dict[str, list[str]]()
    for cell in _cells(pivot, pivot.columns):
        if CONTROL_SURVIVES in cell.flags.split():
            dataset, split, checkpoint = pivot.labels(_PLACE, (cell.dataset, cell.split, cell.checkpoint))
            place = f"{dataset} ({split}, checkpoint {checkpoint})"
            places = attacks.setdefault(pivot.label("attack", cell.attack), [])
            places += [place] if place not in places else []
    ceiling = f"{suite.protocol.control_ceiling:g} %"
    return [
        f"Warning: under {attack} the undefended control keeps more than {ceiling} on {', '.join(places)}; "
        "no defense is credited with resisting this attack there."
        for attack, places in attacks.items()
    ]


def _reading(pivot: Pivot) -> str:
    seeds = len({cell.seed for cell in _cells(pivot, pivot.columns)})
    deviation = f"; ± is the standard deviation over {seeds} seeds" if seeds > 1 else ""
    over, gaps = pivot.spec.mean_over, ", ".join(map(pivot.gap_heading, pivot.gaps))
    mean = f" Each is the mean over {', '.join(over)}, with the interval of all its images." if over else ""
    points = f" {gaps}: the difference in points." if gaps else ""
    return f"All values are percent. Brackets hold the 95 % interval (Wilson){deviation}.{mean}{points}"


def _images(pivot: Pivot) -> str:
    """How many images each column counts; by attack, where that makes a difference."""
    parts = list[str]()
    for column in pivot.columns:
        sizes = _attacks_by(pivot, [column], lambda cell: str(int(cell.n)) if cell.state == "done" else "")
        told = [f"{size} ({', '.join(attacks)})" if len(sizes) > 1 else size for size, attacks in sizes.items()]
        parts.append(f"{' '.join(pivot.labels(pivot.spec.columns, column))} {', '.join(told) or 'none'}")
    return f"Images (n): {'; '.join(parts)}."


def _threat_models(pivot: Pivot) -> str:
    models = _attacks_by(pivot, pivot.columns, lambda cell: cell.threat_model)
    told = [f"{model} ({', '.join(attacks)})" for model, attacks in models.items()]
    return f"Threat model: {'; '.join(told)}."


def _attacks_by(pivot: Pivot, columns: list[Key], value: Callable[[Any], str]) -> dict[str, list[str]]:
    """Names of the attacks in ``columns`` that share a value, in the table's order; cells without one are left out."""
    attacks = dict[str, list[str]]()
    for cell in _cells(pivot, columns):
        attack = pivot.label("attack", cell.attack)
        if (shared := value(cell)) and attack not in attacks.setdefault(shared, []):
            attacks[shared].append(attack)
    return attacks


def _flags(pivot: Pivot) -> str:
    flags = sorted({flag for row in pivot.rows for flag in pivot.flags(row)})
    return "\n".join(f"- `{flag}`: {meaning(flag)}." for flag in flags)


def _cells(pivot: Pivot, columns: list[Key]) -> Iterator[Any]:
    """The cells in some columns, in the order of the table."""
    for row in pivot.rows:
        for column in columns:
            yield from pivot.cells.get((row, column), ())
