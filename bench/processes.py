"""Work side by side on the cores of one machine, in processes that each use a fixed number of threads.

Rounding depends on the number of threads, and training carries it on until results differ. What is trained therefore
uses as many threads on a large machine as on a small one, and a large machine trains more at a time.
"""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

import torch
from joblib import cpu_count

from bench.device import compute_device
from bench.errors import UserError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
VARIABLE = "BENCH_PROCESSES"
# For what is trained one at a time.
TRAINING_THREADS = 2


def processes() -> int:
    """How many processes may compute at a time: ``BENCH_PROCESSES``, or one for each core; one beside an accelerator.

    Raises:
        UserError: The variable is not a whole number above zero.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked:
        if not asked.isdigit() or int(asked) == 0:
            raise UserError(f"{VARIABLE} is '{asked}'; give how many processes may compute at a time, or unset it")
        return int(asked)
    return cpu_count() if compute_device().type == "cpu" else 1


@contextmanager
def threads(count: int) -> Generator[None]:
    """Compute with ``count`` threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """What ``work`` makes of each item, in their order, computed in several processes where there are several items.

    Args:
        work: A function that can be sent to another process; it uses one thread there, unless it sets another number.
        items: What to work on; can be sent too.
    """
    count = min(processes(), len(items))
    if count <= 1:
        yield from map(work, items)
        return
    # Forked where the system allows it: what is imported need not be imported again. CUDA does not survive a fork.
    context = None if compute_device().type == "cpu" else get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(work, items)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
