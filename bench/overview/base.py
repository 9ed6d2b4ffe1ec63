"""Whether the model that a checkpoint starts from exists; nothing is built or downloaded."""

from pathlib import Path

import open_clip

from bench.clip.model import MINI, Base
from bench.clip.robust import robust_names
from bench.config import parse
from bench.errors import UserError, unknown


def check_base(content: dict[str, str], where: str) -> None:
    """Check a checkpoint's ``base``.

    Args:
        content: As read from YAML.
        where: File and key, for messages.

    Raises:
        UserError: Unknown keys, architecture or weights, or weights that are not there.
    """
    base = parse(Base, content, where)
    architectures = [MINI, *open_clip.list_models()]
    if base.architecture not in architectures:
        raise unknown("architecture", base.architecture, architectures, f"{where}.architecture")
    if base.weights.endswith(".safetensors"):
        if not Path(base.weights).exists():
            raise UserError(f"{where}.weights: {base.weights} is missing")
        return
    published = [] if base.architecture == MINI else open_clip.list_pretrained_tags_by_model(base.architecture)
    published += robust_names(base.architecture)
    weights = ["random", *(["shipped"] if base.architecture == MINI else []), *published]
    if base.weights not in weights:
        raise unknown(f"weights of '{base.architecture}'", base.weights, weights, f"{where}.weights")
