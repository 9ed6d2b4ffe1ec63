"""The Qwen3-VL family: a vision transformer whose patches are merged by fours, with deep layers that hear of it too.

The model takes images of any size; here they have one, so that tokens stand at the same places.
"""

from typing import Any

from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

IMAGE = "<|image_pad|>"
_START, _END, _TURN, _OVER = "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (IMAGE, "<|video_pad|>", _START, _END, _TURN, _OVER)
PROMPT = f"{_TURN}user\n{_START}{IMAGE}{_END}{{}}{_OVER}\n{_TURN}assistant\n"
MEAN = STD = (0.5, 0.5, 0.5)
# Side of the images of a shrunken model.
SMALL = 64


def configuration(vision: dict[str, Any], text: dict[str, Any], tokenizer: Any) -> Qwen3VLConfig:
    """What the model is built from; arguments as in ``bench/lvlm/llava.py``."""
    ids = tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        vision_config=vision,
        text_config={**text, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id},
        image_token_id=ids(IMAGE),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids(_START),
        vision_end_token_id=ids(_END),
    )


def build(config: Qwen3VLConfig) -> Qwen3VLForConditionalGeneration:
    """The model with random weights."""
    return Qwen3VLForConditionalGeneration(config)


def published(hub: str) -> Any:
    """The published model, in the number format that it was published in; ``loading.py`` gives it its own."""
    return Qwen3VLForConditionalGeneration.from_pretrained(hub, dtype="auto")


def image_size(config: Any) -> int:
    """Side of the images of a shrunken model in pixels."""
    del config
    return SMALL


def image_tokens(config: Any, size: int) -> int:
    """Places that one image of ``size`` pixels takes in the decoder."""
    return (size // config.vision_config.patch_size // config.vision_config.spatial_merge_size) ** 2


def inputs(config: Any, pixels: Tensor, ids: Tensor | None) -> dict[str, Tensor]:
    """What the model takes for normalised images ``(n, 3, h, w)`` and the prompts ``ids`` that they stand in.

    Patches follow each other in the order in which they are merged, and each holds its pixels once for every frame.
    """
    vision = config.vision_config
    patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    rows, columns = (length // patch for length in pixels.shape[-2:])
    cut = pixels.unflatten(3, (columns // merge, merge, patch)).unflatten(2, (rows // merge, merge, patch))
    ordered = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)
    patches = ordered.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, frames, -1, -1).flatten(5).flatten(0, 4)
    grid = ids if ids is not None else pixels
    made = {"pixel_values": patches, "image_grid_thw": grid.new_tensor([[1, rows, columns]] * len(pixels)).long()}
    return made if ids is None else made | {"mm_token_type_ids": (ids == config.image_token_id).int()}


def tower(model: Any) -> nn.Module:
    """The image tower."""
    return model.model.visual


def first_attention(model: Any) -> nn.Module:
    """The attention of the image tower's first block."""
    return tower(model).get_submodule("blocks.0.attn")


def tower_tokens(config: Any, size: int) -> int:
    """Tokens of one image of ``size`` pixels in the image tower."""
    return (size // config.vision_config.patch_size) ** 2


def adapters(model: Any) -> list[nn.Module]:
    """What lies between the image tower and the decoder: the merger of its last layer, and those of deeper ones."""
    return [model.model.visual.merger, *model.model.visual.deepstack_merger_list]


def decoder(model: Any) -> Any:
    """The language model, with its ``layers``."""
    return model.model.language_model
