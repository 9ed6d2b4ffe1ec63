"""The errors that are told to the user in one message, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend; the message names the file, the key, the value and the fix. Exit code 2."""


def unknown(kind: str, name: str, known: Iterable[str], where: str) -> UserError:
    """The error for an id or key that does not exist; names the nearest one that does.

    Args:
        kind: What the name should be, such as ``defense``.
        name: The name that was given.
        known: All names that would have been right.
        where: The file and key, or the command, that holds the name.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    fix = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
    return UserError(f"{where}: unknown {kind} '{name}'; {fix}")
