"""What a recipe file holds. A surrogate is a model that a transfer attack works on, instead of the attacked one.

``Options``: a closed, frozen pydantic model.
``GIVES``: ``logits`` for the classes of any task, or ``features``.
``make(options, data) -> dict of tensors``: train the model, or get it. ``data`` is the folder of the datasets; seeds
come from the options, and torch's global random stream is put back by the caller.
``restore(tensors, options, task) -> nn.Module``: images in [0,1] to logits for the classes of ``task``, or to features;
in evaluation mode, differentiable, without parameter gradients.
``clip(tensors, options) -> Clip``, where the surrogate is one: attacks on the values in its image tower need it.
"""

from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor, nn

from bench.clip.defended import Task
from bench.config import Options

Gives = Literal["logits", "features"]
Tensors = dict[str, Tensor]


class Make(Protocol):
    """The ``make`` function of a recipe file."""

    def __call__(self, options: Options, data: Path) -> Tensors:
        """Train the surrogate, or get it."""
        ...


class Restore(Protocol):
    """The ``restore`` function of a recipe file."""

    def __call__(self, tensors: Tensors, options: Options, task: Task) -> nn.Module:
        """The surrogate, ready to be differentiated."""
        ...
