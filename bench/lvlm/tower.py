"""The image tower of a large vision-language model: its first attention, which may be changed, and what it tells."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench.lvlm.model import Lvlm

# From what an attention adds to the tokens of images, ``(n, tokens, width)``, to what is added instead.
Edit = Callable[[Tensor], Tensor]


@contextmanager
def first_attention(lvlm: Lvlm, edit: Edit | None) -> Generator[None]:
    """Change what the image tower's first attention adds, after its output projection; afterwards all is as it was.

    transformers' towers run their own loops, so that a hook is the only place to step in without a copy of their code.
    """
    if edit is None:
        yield
        return
    tokens = lvlm.family.tower_tokens(lvlm.model.config, lvlm.image_size)

    def changed(module: Any, inputs: Any, output: Any) -> Any:
        """In some families weights come beside the tokens, in others the tokens of all images are one sequence."""
        del module, inputs
        added: Tensor = output[0] if isinstance(output, tuple) else output
        edited = edit(added.reshape(-1, tokens, added.shape[-1])).reshape(added.shape)
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    handle = lvlm.family.first_attention(lvlm.model).register_forward_hook(changed)
    try:
        yield
    finally:
        handle.remove()


def told(lvlm: Lvlm, images: Tensor) -> Tensor:
    """What the decoder is told about images in [0,1], ``(n, tokens, width)`` float32, some of it in deeper layers."""
    output = lvlm.model.model.get_image_features(**lvlm.inputs(images))
    places = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
    return torch.cat([torch.stack(list(place)) for place in places], dim=1).float()


@torch.no_grad()
def white_anchor(lvlm: Lvlm) -> Tensor:
    """What the first attention adds to the tokens of a white image, ``(tokens, width)`` float32."""
    found = list[Tensor]()

    def note(added: Tensor) -> Tensor:
        found.append(added)
        return added

    with first_attention(lvlm, note):
        told(lvlm, torch.ones(1, 3, lvlm.image_size, lvlm.image_size))
    return found[0][0].float().clone()
