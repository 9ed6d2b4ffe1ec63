"""Getting a CLIP: the shipped mini model, or any open_clip architecture with random, published or local weights."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.clip.robust import ROBUST, robust_names, robust_weights
from bench.clip.small import MEAN, STD, read_architecture, shipped_weights, small_architectures, vocabulary
from bench.clip.tokenizer import WordTokenizer
from bench.config import Options
from bench.device import compute_device
from bench.errors import UserError, unknown


class Base(Options):
    """Where a model comes from.

    Attributes:
        architecture: A small CLIP of our own (``mini``, ``mini_small``), or an open_clip model name such as
            ``ViT-B-32-quickgelu``.
        weights: ``shipped`` (some small CLIPs only), ``random``, an open_clip tag such as ``openai``, robust weights
            (``fare2``, ``fare4``, ``tecoa2``, ``tecoa4``), or the path of a safetensors file. A path alone never names
            a model: the architecture stands beside it, always.
    """

    architecture: str
    weights: str


@dataclass(frozen=True)
class Clip:
    """An open_clip model with what it needs to be used: tokenizer, image size and normalisation."""

    architecture: str
    model: open_clip.CLIP
    tokenize: Callable[[list[str]], Tensor]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def build(architecture: str, seed: int = 0) -> Clip:
    """``architecture`` with random weights, the same for the same seed, in evaluation mode, where it will compute.

    Raises:
        UserError: The architecture is unknown, or its image tower is not a vision transformer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture in small_architectures():
            return _placed(_small(architecture))
        _check_architecture(architecture)
        clip = _wrap(architecture, open_clip.create_model(architecture))
        with torch.no_grad():
            # open_clip starts new models at the scale of CLIP's first training step; trained ones end near 100.
            clip.model.logit_scale.fill_(math.log(100))
        return _placed(clip)


def load(base: Base) -> Clip:
    """The model that ``base`` names.

    Raises:
        UserError: Unknown names, weights that do not fit the architecture, or published weights asked for under an
            architecture with the other activation function (OpenAI's weights need ``-quickgelu``).
    """
    if base.weights == "random":
        return build(base.architecture)
    if base.weights == "shipped":
        weights = shipped_weights(base.architecture)
        if weights is None:
            shipped = " and ".join(f"'{name}'" for name in small_architectures() if shipped_weights(name))
            raise UserError(f"base: only {shipped} ship with weights, not '{base.architecture}'")
        return load_weights(build(base.architecture), weights)
    if base.weights.endswith(".safetensors"):
        return load_weights(build(base.architecture), Path(base.weights))
    if base.weights in ROBUST:
        weights = robust_weights(base.weights, base.architecture)
        return load_weights(build(base.architecture), weights)
    return _published(base)


def load_weights(clip: Clip, path: Path) -> Clip:
    """Put the weights in ``path`` into ``clip``.

    Raises:
        UserError: The file is missing, unreadable or made for another architecture.
    """
    if not path.exists():
        raise UserError(f"{path} is missing")
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own type for every kind of damage
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    expected = {name: tensor.shape for name, tensor in clip.model.state_dict().items()}
    wrong = sorted(name for name in expected.keys() ^ state.keys())
    wrong += sorted(name for name in expected.keys() & state.keys() if expected[name] != state[name].shape)
    if wrong:
        raise UserError(
            f"{path} does not hold a '{clip.architecture}': {len(wrong)} tensors differ, first '{wrong[0]}'"
        )
    clip.model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return clip


def save_weights(clip: Clip, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write all tensors of ``clip`` to a safetensors file."""
    state = clip.model.state_dict()
    save_file({name: tensor.to("cpu", dtype).contiguous() for name, tensor in state.items()}, path)


def weights_hash(model: nn.Module) -> str:
    """Hash over all tensors, to prove that frozen weights stayed frozen."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        # As bytes, for NumPy does not know all number formats.
        digest.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def normalise(clip: Clip, images: Tensor) -> Tensor:
    """Images in [0,1] as the image tower wants them: minus mean, over standard deviation, per channel."""
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (clip.mean, clip.std))
    return (images - mean) / std


def _small(architecture: str) -> Clip:
    spec = read_architecture(architecture)
    tokenizer = WordTokenizer(vocabulary(spec.words), spec.text["context_length"])
    model = open_clip.CLIP(
        embed_dim=spec.embed_dim,
        vision_cfg=open_clip.CLIPVisionCfg(**spec.vision),
        text_cfg=open_clip.CLIPTextCfg(**spec.text, vocab_size=tokenizer.vocab_size),
    )
    return Clip(architecture, model.eval(), tokenizer, spec.vision["image_size"], MEAN, STD)


def _check_architecture(architecture: str) -> None:
    """Refuse, before anything is made or downloaded, what the staged forward pass cannot run."""
    if architecture in small_architectures():
        return
    if architecture not in open_clip.list_models():
        known = [*small_architectures(), *open_clip.list_models()]
        raise unknown("architecture", architecture, known, "base.architecture")
    config = open_clip.get_model_config(architecture) or {}
    vision = config.get("vision_cfg", {})
    plain_text = not config.get("custom_text") and "hf_model_name" not in config.get("text_cfg", {})
    if not plain_text or "timm_model_name" in vision or not isinstance(vision.get("layers"), int):
        raise _no_plain_tower(architecture)


def _no_plain_tower(architecture: str) -> UserError:
    return UserError(
        f"base.architecture: '{architecture}' has no plain vision transformer with CLIP's text tower; "
        "prompts, refiners and anchors need one (RN50, CustomText and SigLIP models have not)"
    )


def _wrap(architecture: str, model: Any) -> Clip:
    if not isinstance(model, open_clip.CLIP) or not isinstance(getattr(model, "visual", None), VisionTransformer):
        raise _no_plain_tower(architecture)
    visual: Any = model.visual
    size = int(visual.image_size[0])
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return Clip(architecture, model.eval(), open_clip.get_tokenizer(architecture), size, mean, std)


def own_weights(architecture: str) -> list[str]:
    """Names of weights that an architecture has here, beside those that open_clip knows."""
    return ["random", *(["shipped"] if shipped_weights(architecture) else []), *robust_names(architecture)]


def _published(base: Base) -> Clip:
    _check_architecture(base.architecture)
    check_published(base)
    return _placed(_wrap(base.architecture, open_clip.create_model(base.architecture, pretrained=base.weights)))


def _placed(clip: Clip) -> Clip:
    clip.model.to(compute_device())
    return clip


def check_published(base: Base) -> None:
    """Refuse weights that are not published for the architecture, or were trained with another activation function.

    Raises:
        UserError: Names the weights or the architecture that would be right.
    """
    config = open_clip.get_pretrained_cfg(base.architecture, base.weights)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(base.architecture)
        raise unknown(
            "weights",
            base.weights,
            [*own_weights(base.architecture), *tags],
            f"base.weights of '{base.architecture}'",
        )
    needs_quick = bool(config.get("quick_gelu", False))
    has_quick = bool((open_clip.get_model_config(base.architecture) or {}).get("quick_gelu", False))
    if needs_quick != has_quick:
        plain = base.architecture.removesuffix("-quickgelu")
        right = f"{plain}-quickgelu" if needs_quick else plain
        raise UserError(
            f"base: weights '{base.weights}' were trained with {'Quick' if needs_quick else 'exact '}GELU; "
            f"use architecture '{right}' instead of '{base.architecture}'"
        )
