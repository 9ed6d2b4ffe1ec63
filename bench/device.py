"""Which device computes: the accelerator if there is one, or what ``BENCH_DEVICE`` says.

Models are built on it, and data follow batch by batch. Random numbers are drawn on the processor (``randomness``), and
what is stored comes back to it.
"""

import os
from types import ModuleType

import torch
from torch import nn

from bench.errors import UserError

VARIABLE = "BENCH_DEVICE"


def compute_device() -> torch.device:
    """The device of ``BENCH_DEVICE``; if it is not set, ``cuda`` where there is one, else ``cpu``.

    Raises:
        UserError: There is no such device here.
    """
    name = os.environ.get(VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        found = _module(device).device_count()
    except RuntimeError as error:
        raise UserError(f"{VARIABLE}: '{name}' is not a device; set cpu, cuda, cuda:1 or mps") from error
    if (device.index or 0) >= found:
        kind = f"{found} {device.type} device{'' if found == 1 else 's'}"
        raise UserError(f"{VARIABLE}: '{name}' is not here, torch finds {kind}; set another, or cpu")
    if device.type == "cuda":
        # float32 stays float32; torch lets cuDNN round the factors of convolutions to ten bits by default.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return device


def device_of(module: nn.Module) -> torch.device:
    """Where ``module`` wants its inputs; the processor if it holds no tensor."""
    first = next((tensor for tensors in (module.parameters(), module.buffers()) for tensor in tensors), None)
    return torch.device("cpu") if first is None else first.device


def device_name(device: torch.device) -> str:
    """What the maker calls an accelerator; the kind of device where torch does not know."""
    named = getattr(_module(device), "get_device_name", None)
    return device.type if named is None else str(named(device))


def peak_allocated(device: torch.device) -> int | None:
    """Most bytes that tensors have had on an accelerator so far; None where torch does not count them."""
    count = getattr(_module(device), "max_memory_allocated", None)
    return None if count is None else int(count(device))


def free_cache(device: torch.device) -> None:
    """Give memory back that torch keeps for tensors to come: after running out of it, the pieces may be too small."""
    if hasattr(_module(device), "empty_cache"):
        _module(device).empty_cache()


def _module(device: torch.device) -> ModuleType:
    return torch.get_device_module(device)
