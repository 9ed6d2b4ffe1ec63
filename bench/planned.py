"""What a suite names before it exists. A cell that needs it is ``not_implemented``; everything else runs.

A suite lists such items under ``planned``. An item counts as absent until its file is there, so that nothing in the
suite has to change on that day; an architecture counts as absent for as long as it is listed.
"""

from functools import cache
from pathlib import Path

from bench.config import Room, Suite
from bench.evaluation.record import Cell
from bench.files import write_text
from bench.items import item_ids

NOTE = "not_implemented.txt"


class Absent:
    """What of a suite is not implemented. All methods name it as ``defenses/zip``; an empty list means all is there."""

    def __init__(self, suite: Suite) -> None:
        """Look for the files of what ``suite`` lists as planned."""
        self._suite = suite
        self.items = {(room, name) for room, names in suite.planned.items() for name in names if _is_absent(room, name)}
        self._cached = cache(self._of)

    def checkpoint(self, name: str) -> list[str]:
        """What a checkpoint lacks: its trigger or its architecture."""
        spec = self._suite.checkpoints[name]
        return self._lacking(("architectures", spec.base.get("architecture", "")), ("backdoors", spec.trigger))

    def defense(self, track: str, name: str) -> list[str]:
        """What a defense of a track lacks: any of its parts."""
        parts = self._suite.tracks[track].method(name).split("+")
        return [lacking for part in parts for lacking in self._lacking(("defenses", part))]

    def attack(self, name: str) -> list[str]:
        """What an attack lacks: its file."""
        return self._lacking(("attacks", self._suite.method_of(name)))

    def cell(self, track: str, cell: Cell) -> list[str]:
        """What a cell lacks."""
        return self._cached(track, cell.checkpoint, cell.defense, cell.attack)

    def _of(self, track: str, checkpoint: str, defense: str, attack: str) -> list[str]:
        known = defense in self._suite.tracks[track].defenses  # or else it was submitted
        return [*self.checkpoint(checkpoint), *(self.defense(track, defense) if known else []), *self.attack(attack)]

    def _lacking(self, *items: tuple[Room, str]) -> list[str]:
        return [f"{room}/{name}" for room, name in items if (room, name) in self.items]


def reason_of(lacking: list[str]) -> str:
    """Why there is no number, for people; empty where nothing is lacking."""
    return f"not implemented: {', '.join(lacking)}" if lacking else ""


def leave_note(folder: Path, lacking: list[str]) -> None:
    """Stand in for what cannot be made, so that a pipeline goes on, and runs again once that has changed."""
    write_text(folder / NOTE, reason_of(lacking) + "\n")


def _is_absent(room: Room, name: str) -> bool:
    return room == "architectures" or name not in item_ids(room)
