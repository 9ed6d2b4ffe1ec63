"""``bench`` as a program of its own, spared a third of the time that a short command spends on its libraries."""

import atexit
import gc
import os
import sys

from bench.cli import main


def program() -> None:
    """Run the command and leave with its exit code, without taking the libraries down."""
    # Libraries bring a million objects that all stay; to look them through for garbage while they load takes a second.
    # Young objects, which tensors of a training step are, are looked through as often as ever.
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 1000)
    code = 1

    def leave() -> None:
        # Python would take three thousand modules down one by one, which takes longer than many a cell.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    # Called last, after all that is registered later: temporary files, locks and connections.
    atexit.register(leave)
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


if __name__ == "__main__":
    program()
