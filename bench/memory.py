"""How much memory a process has taken."""

import resource
import sys

import torch


def peak_memory_mb() -> float:
    """Most memory that this process has had so far; on an accelerator, that its tensors have had."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    # Bytes on macOS, kilobytes elsewhere.
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1)
