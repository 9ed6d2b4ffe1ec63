"""A device that is only pretended: its tensors hold ordinary numbers, and refuse to meet those of the processor.

With ``BENCH_DEVICE=pretend`` the whole code runs as on an accelerator, and whatever it leaves on the wrong device is
an error, on any machine. The rules are CUDA's: two devices meet in copies only; a tensor without dimensions may come
from the processor, and so may the indices into a tensor of the device. Two rules are our own: random numbers are drawn
on the processor, and towers and networks do not compute there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "pretend"
_COPIES = {"aten::copy_", "aten::_to_copy"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_RANDOM = {
    "aten::rand", "aten::randn", "aten::randint", "aten::randperm", "aten::normal", "aten::bernoulli",
    "aten::multinomial", "aten::rand_like", "aten::randn_like", "aten::randint_like", "aten::native_dropout",
    "aten::uniform_", "aten::normal_", "aten::random_", "aten::bernoulli_", "aten::exponential_",
}  # fmt: skip


class _Module(backend_registration._DummyBackendModule):
    """What ``torch.pretend`` offers."""

    def get_device_name(self, device: torch.device) -> str:
        return "a pretended accelerator"

    def max_memory_allocated(self, device: torch.device) -> int:
        return 3 * 2**20


backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
DEVICE = torch.device(NAME, 0)


class Pretended(Tensor):
    """A tensor that says it is on the device; ``held`` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Pretended":
        tensor = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE,
        )  # fmt: skip
        tensor.held = held
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"pretended {self.held}"

    def __format__(self, how: str) -> str:
        return format(self.item() if self.dim() == 0 else str(self), how)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Also sees what is made on the device, or moved to it, from nothing that is there."""

    def __init__(self, drawn: bool) -> None:
        super().__init__()
        self._drawn = drawn

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self._drawn)


def _empty(*args: Any, **kwargs: Any) -> Tensor:
    return _outer(torch.empty_strided(*args[:2], dtype=kwargs.get("dtype")))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _inner(target).copy_(_inner(source))
    return target


# ``torch.tensor`` and ``new_tensor`` ask the backend itself.
_KERNELS = torch.library.Library("aten", "IMPL")
_KERNELS.impl("empty_strided", _empty, "PrivateUse1")
_KERNELS.impl("_copy_from", _copy_from, "PrivateUse1")


@contextmanager
def pretending(*, drawn: bool = False) -> Iterator[torch.device]:
    """The device exists; with ``drawn``, random numbers may be drawn on it, as libraries do."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    # The other way of moving a parameter does not know tensors that hold others.
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Mode(drawn):
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def _run(func: Any, args: Any, kwargs: dict[str, Any], drawn: bool = True) -> Any:
    name, leaves = func._schema.name, list(_leaves([args, list(kwargs.values())]))
    asked, there = kwargs.get("device"), [leaf for leaf in leaves if isinstance(leaf, Pretended)]
    on_device = bool(there) if asked is None else torch.device(asked).type == NAME
    if there:
        _refuse_strangers(func, name, args, leaves)
    if on_device:
        _refuse_draws(func, name, leaves, drawn)
    else:
        _refuse_towers(func, name, args)
    inner = {key: _each(_inner, value) for key, value in kwargs.items()}
    if asked is not None:
        inner["device"] = torch.device("cpu")
    found = func(*_each(_inner, args), **inner)
    if name == "aten::copy_":
        return args[0]
    # What is changed in place comes back as what it was.
    known = {id(tensor.held): tensor for tensor in there} if func._schema.is_mutable else {}
    return _each(lambda part: known.get(id(part), _outer(part)), found) if on_device else found


def _refuse_strangers(func: Any, name: str, args: Any, leaves: list[Any]) -> None:
    if name in _COPIES:
        return
    if name in _INDEXING and isinstance(args[0], Pretended):
        leaves = [args[0], *args[2:]]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    strangers = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, Pretended) and tensor.dim()]
    if strangers:
        own = [tuple(tensor.shape) for tensor in tensors if isinstance(tensor, Pretended)]
        raise RuntimeError(f"{func}: on the device {own}, and on the processor {strangers}")


def _refuse_draws(func: Any, name: str, leaves: list[Any], drawn: bool) -> None:
    if any(isinstance(leaf, Generator) for leaf in leaves):
        raise RuntimeError(f"{func}: a stream of the processor cannot draw on the device")
    if name in _RANDOM and not drawn:
        raise RuntimeError(f"{func}: random numbers are drawn on the processor, so that devices agree")


def _refuse_towers(func: Any, name: str, args: Any) -> None:
    # A convolution of single channels is a blur, which data are prepared with.
    if name == "aten::embedding" or (name == "aten::convolution" and args[8] == 1):
        raise RuntimeError(f"{func}: a model computes on the processor")


def _leaves(part: Any) -> Iterator[Any]:
    if isinstance(part, list | tuple):
        for inner in part:
            yield from _leaves(inner)
    else:
        yield part


def _each(change: Callable[[Any], Any], part: Any) -> Any:
    """``part`` with each tensor in it changed."""
    if isinstance(part, list | tuple):
        return type(part)([_each(change, inner) for inner in part])
    return change(part) if isinstance(part, Tensor) else part


def _inner(part: Any) -> Any:
    return part.held if isinstance(part, Pretended) else part


def _outer(part: Any) -> Any:
    return Pretended(part) if isinstance(part, Tensor) else part
