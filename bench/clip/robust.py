"""Robust CLIP weights that their authors published: FARE and TeCoA, ViT-L/14 (Schlarmann et al., ICML 2024).

The hub holds them as PyTorch files. They are fetched like any archive (verified, resumed, from a mirror), read with
PyTorch's restricted reader, which builds tensors and runs nothing, and kept as safetensors.
"""

import pickle
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.datasets.archives.receive import receive
from bench.datasets.archives.source import File
from bench.errors import UserError
from bench.files import locked

_FILE = "open_clip_pytorch_model.bin"
_HUB = "https://huggingface.co/chs20/{}/resolve/{}/" + _FILE


class Published(NamedTuple):
    """Weights with the architecture that they need; the number in their name is the training eps in /255."""

    architecture: str
    file: File


ROBUST = {
    "fare2": Published("ViT-L-14-quickgelu", File(_FILE, (_HUB.format("fare2-clip", "main"),), about=1_710_635_909)),
    "fare4": Published("ViT-L-14-quickgelu", File(_FILE, (_HUB.format("fare4-clip", "main"),), about=1_710_635_909)),
    "tecoa2": Published(
        "ViT-L-14-quickgelu",
        File(
            _FILE,
            (_HUB.format("tecoa2-clip", "fd40d0452fb06aca5bf9f7ea32acca433adcf0e6"),),
            size=1_710_635_909,
            sha256="c10d93237ca654e85b9977b6bb9195ea017e0e87ab15145e67dcf92245bd4af4",
        ),
    ),
    "tecoa4": Published(
        "ViT-L-14-quickgelu",
        File(
            _FILE,
            (_HUB.format("tecoa4-clip", "a6760a9127bd146e9fc52054d603a5fa2e9cd1d3"),),
            size=1_710_635_909,
            sha256="7d85c081ffe48ee9a31fa4a025384212bc0d1f27ca6378cc44297cc4f6dfad37",
        ),
    ),
}


def robust_names(architecture: str) -> list[str]:
    """The weights in ``ROBUST`` that fit ``architecture``."""
    return [name for name, published in ROBUST.items() if published.architecture == architecture]


def robust_weights(name: str, architecture: str, data: Path = Path("data")) -> Path:
    """The safetensors file of the published weights ``name``, fetched if it is not here.

    Args:
        name: A key of ``ROBUST``.
        architecture: What they are to be put into.
        data: Folder of the data; they go to ``archives/<name>-clip``.

    Raises:
        UserError: They belong to another architecture, could not be had, or are not a file of weights.
    """
    published = ROBUST[name]
    if architecture != published.architecture:
        raise UserError(
            f"base: weights '{name}' belong to architecture '{published.architecture}', not '{architecture}'"
        )
    folder = data / "archives" / f"{name}-clip"
    receipt = receive([published.file], folder, {})[published.file.name]
    target = folder / f"{receipt.sha256[:16]}.safetensors"
    with locked(folder / f".{target.name}.lock"):
        if not target.exists():
            scratch = target.with_suffix(".part")
            save_file(_tensors(folder / published.file.name), scratch)
            scratch.replace(target)
    return target


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.contiguous() for name, tensor in state.items()}
    except (pickle.UnpicklingError, RuntimeError, AttributeError, EOFError) as error:
        raise UserError(f"{path} is not a file of weights: {error}") from error
