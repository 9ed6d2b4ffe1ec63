"""Getting a large vision-language model: one of our own, or a published one, in transformers' classes."""

import importlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from bench.clip.model import Base
from bench.clip.model import build as build_clip
from bench.clip.model import load as load_clip
from bench.clip.small import MEAN, STD
from bench.device import compute_device
from bench.errors import UserError, unknown
from bench.lvlm.architecture import (
    Architecture,
    lvlm_architectures,
    read_architecture,
    shipped_weights,
    vocabulary,
)
from bench.lvlm.model import Lvlm
from bench.lvlm.words import word_tokenizer

_TOWER = "model.vision_tower."


def build(architecture: str, seed: int = 0) -> Lvlm:
    """``architecture`` with random weights, the same for the same seed; a published model is shrunken.

    Raises:
        UserError: The architecture is unknown.
    """
    if architecture not in lvlm_architectures():
        raise unknown("architecture", architecture, lvlm_architectures(), "base.architecture")
    spec = read_architecture(architecture)
    family = family_of(spec)
    tokenizer = word_tokenizer(vocabulary(spec.words or architecture), family.SPECIAL)
    vision = family.vision_settings(build_clip(spec.tower)) if spec.tower else spec.vision
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.build(family.configuration(vision, spec.text, tokenizer))
    return _wrap(architecture, family, model, tokenizer, family.image_size(model.config), MEAN, STD)


def load(base: Base) -> Lvlm:
    """The model that ``base`` names: ``shipped`` or ``random`` weights, those of the ``hub``, or a safetensors file.

    Raises:
        UserError: Unknown names, or weights that are not there or do not fit.
    """
    if base.weights == "random":
        return build(base.architecture)
    if base.architecture not in lvlm_architectures():
        raise unknown("architecture", base.architecture, lvlm_architectures(), "base.architecture")
    spec, weights = read_architecture(base.architecture), shipped_weights(base.architecture)
    if base.weights == "hub" and spec.hub:
        return _published(base.architecture, spec)
    if base.weights.endswith(".safetensors"):
        return load_weights(with_tower(build(base.architecture)), Path(base.weights))
    if base.weights == "shipped" and weights is not None:
        return load_weights(with_tower(build(base.architecture)), weights)
    known = ["random", *(["shipped"] if weights else []), *(["hub"] if spec.hub else [])]
    raise unknown("weights", base.weights, known, f"base.weights of '{base.architecture}'")


def with_tower(lvlm: Lvlm) -> Lvlm:
    """The model with the trained image tower of the small CLIP that it names, if it names one."""
    spec = read_architecture(lvlm.architecture)
    if spec.tower:
        clip = load_clip(Base(architecture=spec.tower, weights="shipped"))
        lvlm.family.copy_tower(lvlm.model, clip.model)
    return lvlm


def own_state(lvlm: Lvlm) -> dict[str, Tensor]:
    """All tensors of a model but those of an image tower that it has from a small CLIP."""
    borrowed = bool(read_architecture(lvlm.architecture).tower)
    state: dict[str, Tensor] = lvlm.model.state_dict()
    return {name: tensor for name, tensor in state.items() if not (borrowed and name.startswith(_TOWER))}


def save_weights(lvlm: Lvlm, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the model's own tensors to a safetensors file."""
    save_file({name: tensor.to("cpu", dtype).contiguous() for name, tensor in own_state(lvlm).items()}, path)


def load_weights(lvlm: Lvlm, path: Path) -> Lvlm:
    """Put the weights in ``path`` into ``lvlm``; an image tower that comes from a small CLIP stays as it is.

    Raises:
        UserError: The file is missing, unreadable or made for another architecture.
    """
    if not path.exists():
        raise UserError(f"{path} is missing")
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own type for every kind of damage
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    expected = {name: tensor.shape for name, tensor in own_state(lvlm).items()}
    wrong = sorted(expected.keys() ^ state.keys())
    wrong += sorted(name for name in expected.keys() & state.keys() if expected[name] != state[name].shape)
    if wrong:
        raise UserError(
            f"{path} does not hold a '{lvlm.architecture}': {len(wrong)} tensors differ, first '{wrong[0]}'"
        )
    lvlm.model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    return lvlm


def set_formats(family: Any, model: Any) -> None:
    """Let a model see in float32 and speak in bfloat16, in place.

    Attacks go through the image tower in float32, and what lies behind it is tuned in float32. The decoder is most of a
    large model; in float16, in which some are published, tuning through it ends in NaN.
    """
    seeing = [family.tower(model), *family.adapters(model)]
    exact = {id(parameter) for module in seeing for parameter in module.parameters()}
    # Parameters alone: the decoder's tables of places are computed in float32, whatever its format.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if id(parameter) in exact else torch.bfloat16)


def family_of(spec: Architecture) -> Any:
    """The module of a model's family."""
    return importlib.import_module(f"bench.lvlm.{spec.family}")


def _published(architecture: str, spec: Architecture) -> Lvlm:
    """A published model with its own tokenizer, from transformers' cache or its hub."""
    family = family_of(spec)
    try:
        model, tokenizer = family.published(spec.hub), AutoTokenizer.from_pretrained(spec.hub)
    except OSError as error:
        raise UserError(
            f"base: '{spec.hub}' is not in transformers' cache and cannot be fetched ({str(error).splitlines()[0]}); "
            "put it there on a machine with a network, or use weights 'random' to try the code"
        ) from error
    lacking = set(family.SPECIAL) - set(tokenizer.get_vocab())
    if lacking:
        raise UserError(
            f"base: the tokenizer of '{spec.hub}' lacks {', '.join(sorted(lacking))}, which the chat template of the "
            f"family '{spec.family}' needs; give the architecture another family"
        )
    set_formats(family, model)
    size = spec.image_size or family.image_size(model.config)
    return _wrap(architecture, family, model, tokenizer, size, family.MEAN, family.STD)


def _wrap(
    architecture: str,
    family: Any,
    model: Any,
    tokenizer: Any,
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Lvlm:
    # The padding is on the left, so that all answers of a batch start at the same place.
    tokenizer.padding_side = "left"
    model.to(compute_device()).eval().requires_grad_(False)
    return Lvlm(architecture, family, model, tokenizer, image_size, mean, std)
