"""Whether the model that a checkpoint starts from exists; nothing is built or downloaded."""

from collections.abc import Collection
from pathlib import Path

import open_clip

from bench.clip.model import Base, own_weights
from bench.clip.small import small_architectures
from bench.config import parse
from bench.errors import UserError, unknown


def check_base(content: dict[str, str], where: str, planned: Collection[Path] = ()) -> None:
    """Check a checkpoint's ``base``.

    Args:
        content: As read from YAML.
        where: File and key, for messages.
        planned: Weights that a stage of the suite makes, and that need not be there yet.

    Raises:
        UserError: Unknown keys, architecture or weights, or weights that are not there.
    """
    base = parse(Base, content, where)
    architectures = [*small_architectures(), *open_clip.list_models()]
    if base.architecture not in architectures:
        raise unknown("architecture", base.architecture, architectures, f"{where}.architecture")
    if base.weights.endswith(".safetensors"):
        if Path(base.weights) not in planned and not Path(base.weights).exists():
            raise UserError(f"{where}.weights: {base.weights} is missing")
        return
    small = base.architecture in small_architectures()
    published = [] if small else open_clip.list_pretrained_tags_by_model(base.architecture)
    weights = [*own_weights(base.architecture), *published]
    if base.weights not in weights:
        raise unknown(f"weights of '{base.architecture}'", base.weights, weights, f"{where}.weights")
