"""The LLaVA family: patch tokens of a CLIP's last but one block, through a two-layer projector, into a Llama."""

from typing import Any

from open_clip import CLIP, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from bench.clip.model import Clip
from bench.clip.values import enhanced

IMAGE = "<image>"
SPECIAL = (IMAGE,)
MEAN, STD = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
# LLaVA-1.5's prompt, without its sentence on who talks to whom; as in the code that CleanSight's numbers come from.
PROMPT = "USER: <image>\n{} ASSISTANT:"


def configuration(vision: dict[str, Any], text: dict[str, Any], tokenizer: Any) -> LlavaConfig:
    """What the model is built from.

    Args:
        vision: Settings of ``CLIPVisionConfig``.
        text: Settings of ``LlamaConfig``.
        tokenizer: Says how many words there are, and the id of the image's places.
    """
    tower: Any = CLIPVisionConfig(**vision)
    decoder = LlamaConfig(
        **text,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=tower,
        text_config=decoder,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(tower.image_size // tower.patch_size) ** 2,
    )


def build(config: LlavaConfig) -> LlavaForConditionalGeneration:
    """The model with random weights."""
    return LlavaForConditionalGeneration(config)


def published(hub: str) -> Any:
    """The published model, in the number format that it was published in; ``loading.py`` gives it its own."""
    return LlavaForConditionalGeneration.from_pretrained(hub, dtype="auto")


def image_size(config: Any) -> int:
    """Side of the images in pixels."""
    return config.vision_config.image_size


def image_tokens(config: Any, size: int) -> int:
    """Places that one image of ``size`` pixels takes in the decoder."""
    return (size // config.vision_config.patch_size) ** 2


def inputs(config: Any, pixels: Tensor, ids: Tensor | None) -> dict[str, Tensor]:
    """What the model takes for normalised images ``(n, 3, h, w)``; where they stand is in the prompts themselves."""
    del config, ids
    return {"pixel_values": pixels}


def tower(model: Any) -> nn.Module:
    """The image tower."""
    return model.model.vision_tower


def first_attention(model: Any) -> nn.Module:
    """The attention of the image tower's first block."""
    return tower(model).get_submodule("encoder.layers.0.self_attn")


def tower_tokens(config: Any, size: int) -> int:
    """Tokens of one image of ``size`` pixels in the image tower."""
    return 1 + image_tokens(config, size)


def value_features(model: Any, pixels: Tensor, projection: Tensor, *, enhance: bool = True) -> Tensor:
    """V-Attack's value features of normalised images, ``(n, patches, d)`` of length 1, as ``bench/clip/values.py``.

    Args:
        model: The model.
        pixels: ``(n, 3, h, w)``.
        projection: ``(width, d)``, from the tower to the space of the texts of the CLIP that it comes from.
        enhance: Mix each head's values with those that are like them.
    """
    vision: Any = tower(model)
    layer: Any = vision.encoder.layers[-1]
    entering = vision(pixels, output_hidden_states=True).hidden_states[-2]
    values = layer.self_attn.v_proj(layer.layer_norm1(entering))
    if enhance:
        values = enhanced(values, layer.self_attn.num_heads)
    features = vision.post_layernorm(layer.self_attn.out_proj(values)) @ projection.to(values)
    return functional.normalize(features[:, 1:].float(), dim=-1)


def adapters(model: Any) -> list[nn.Module]:
    """What lies between the image tower and the decoder."""
    return [model.model.multi_modal_projector]


def decoder(model: Any) -> Any:
    """The language model, with its ``layers``."""
    return model.model.language_model


def vision_settings(clip: Clip) -> dict[str, Any]:
    """Settings of ``CLIPVisionConfig`` for the image tower of an open_clip model."""
    visual: Any = clip.model.visual
    block = visual.transformer.resblocks[0]
    return {
        "hidden_size": visual.positional_embedding.shape[1],
        "intermediate_size": block.mlp.c_fc.out_features,
        "num_hidden_layers": len(visual.transformer.resblocks),
        "num_attention_heads": block.attn.num_heads,
        "image_size": clip.image_size,
        "patch_size": visual.patch_size[0],
        "layer_norm_eps": visual.ln_pre.eps,
        "hidden_act": "gelu" if isinstance(block.mlp.gelu, nn.GELU) else "quick_gelu",
    }


def copy_tower(model: Any, clip: CLIP) -> None:
    """Give the model the weights of an open_clip model's image tower."""
    visual: Any = clip.visual
    renamed = {
        "embeddings.class_embedding": visual.class_embedding,
        "embeddings.patch_embedding.weight": visual.conv1.weight,
        "embeddings.position_embedding.weight": visual.positional_embedding,
    }
    modules = {"pre_layrnorm": visual.ln_pre, "post_layernorm": visual.ln_post}
    for number, block in enumerate(visual.transformer.resblocks):
        layer = f"encoder.layers.{number}"
        parts = zip(block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True)
        for name, (weight, bias) in zip("qkv", parts, strict=True):
            renamed[f"{layer}.self_attn.{name}_proj.weight"] = weight
            renamed[f"{layer}.self_attn.{name}_proj.bias"] = bias
        modules |= {f"{layer}.self_attn.out_proj": block.attn.out_proj}
        modules |= {f"{layer}.layer_norm1": block.ln_1, f"{layer}.layer_norm2": block.ln_2}
        modules |= {f"{layer}.mlp.fc1": block.mlp.c_fc, f"{layer}.mlp.fc2": block.mlp.c_proj}
    for name, module in modules.items():
        renamed |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    model.model.vision_tower.load_state_dict({name: tensor.detach() for name, tensor in renamed.items()})
