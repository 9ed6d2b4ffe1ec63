"""How much memory a process has taken."""

import resource
import sys

from bench.device import compute_device, peak_allocated


def peak_memory_mb() -> float:
    """Most memory that this process has had so far; on an accelerator, that its tensors have had."""
    allocated = peak_allocated(compute_device())
    if allocated is not None:
        return round(allocated / 2**20, 1)
    # Bytes on macOS, kilobytes elsewhere.
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1)
