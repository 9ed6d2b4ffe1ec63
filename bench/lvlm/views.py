"""What an attacker of a large vision-language model sees: its image tower, defended or not, or CLIPs of other kinds.

V-Attack needs values in the space of a CLIP's texts. A tower that comes from a CLIP has them with that CLIP's
projection and text tower; to other towers the attack can come by transfer only.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg, get_tokenizer
from open_clip.transformer import VisionTransformer
from torch import Tensor

from bench.attacks.contract import Knowledge
from bench.backdoors.trigger import Trigger
from bench.clip.classifier import Classifier
from bench.clip.model import Base, Clip
from bench.clip.model import load as load_clip
from bench.clip.small import MEAN, STD
from bench.clip.values import clip_view, word_view
from bench.config import ThreatModel
from bench.device import compute_device
from bench.errors import UserError
from bench.evaluation.adversary import Attacker, Mean, View
from bench.lvlm.architecture import read_architecture
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.model import Lvlm
from bench.lvlm.room import VALUES
from bench.lvlm.tower import first_attention

# From the words that images show and shall show to the attacker's side of the cell.
Sight = Callable[[Sequence[str]], View]


def sight_of(threat_model: ThreatModel, attacker: Attacker, model: DefendedLvlm, trigger: Trigger | None) -> Sight:
    """What ``threat_model`` lets the attacker see of the defended ``model``.

    Raises:
        UserError: Its image tower, or a surrogate, has no values in the space of a CLIP's texts.
    """
    if getattr(attacker.module, "NEEDS", "") != VALUES:
        return lambda words: View(model.lvlm.model, Knowledge(trigger))
    if threat_model == "transfer":
        clips = [
            _surrogate(surrogate.name, surrogate.module.clip(surrogate.tensors, surrogate.options))
            for surrogate in attacker.surrogates
        ]

        def surrogates(words: Sequence[str]) -> View:
            views = tuple(clip_view(clip, words) for clip in clips)
            return View(Mean(views), Knowledge(surrogates=views))

        return surrogates
    seen, clip = DefendedLvlm(model.lvlm) if threat_model == "grey_box" else model, clip_behind(model.lvlm)
    return lambda words: View(tower_view(seen, clip, words), Knowledge(trigger))


def tower_view(model: DefendedLvlm, clip: Clip, words: Sequence[str]) -> Classifier:
    """A defended model's image tower as V-Attack sees it: images in [0,1] to the cosines of ``word_view``."""
    lvlm = model.lvlm

    def values(images: Tensor) -> Tensor:
        seen = lvlm.inputs(images if model.pixels is None else model.pixels(images))
        with first_attention(lvlm, model.attention):
            return lvlm.family.value_features(lvlm.model, seen["pixel_values"], clip.model.visual.proj)

    return word_view(values, clip, words)


def clip_behind(lvlm: Lvlm) -> Clip:
    """The CLIP whose image tower a model sees with; behind a shrunken one, with random weights, a random CLIP.

    Raises:
        UserError: There is none.
    """
    spec = read_architecture(lvlm.architecture)
    named = {"architecture": spec.tower, "weights": "shipped"} if spec.tower else spec.clip
    if not named:
        raise UserError(
            f"'{lvlm.architecture}' does not see with a CLIP's image tower, whose values V-Attack needs; attack it "
            "with the threat model 'transfer' and surrogates that are CLIPs"
        )
    width = lvlm.model.config.vision_config.hidden_size
    return _random_clip(width) if spec.vision.get("hidden_size") == width else _clip(**named)


@cache
def _random_clip(width: int) -> Clip:
    """What V-Attack uses of a CLIP, a text tower and a projection, for an image tower of ``width``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIP(
            embed_dim=width,
            vision_cfg=CLIPVisionCfg(layers=1, width=width, head_width=width, image_size=32, patch_size=32),
            text_cfg=CLIPTextCfg(layers=1, width=width, heads=1),
        )
    model.to(compute_device()).eval().requires_grad_(False)
    return Clip("random", model, get_tokenizer("ViT-B-32"), 32, MEAN, STD)


@cache
def _clip(architecture: str, weights: str) -> Clip:
    return load_clip(Base(architecture=architecture, weights=weights))


def _surrogate(name: str, clip: Clip) -> Clip:
    if not isinstance(clip.model.visual, VisionTransformer):
        raise UserError(f"surrogates.{name}: its image tower is no transformer, whose values V-Attack needs")
    return clip
