"""The surrogate's folder: ``weights.safetensors`` and ``surrogate.json``, which says how they were made."""

import hashlib
import json
import time
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bench.clip.defended import Task
from bench.config import Options, Suite, SurrogateSpec, parse
from bench.device import compute_device
from bench.errors import UserError
from bench.files import empty_partial, replace_folder, sha256_of
from bench.items import item_options, load_item, source_hash
from bench.paths import Paths
from bench.processes import TRAINING_THREADS, threads
from bench.provenance import Provenance, provenance
from bench.surrogates.contract import Tensors

_CARD, _WEIGHTS = "surrogate.json", "weights.safetensors"


class Card(Options):
    """The content of ``surrogate.json``.

    Attributes:
        spec: Recipe, with the defaults of the recipe's options filled in.
        source: Hash of the recipe's file.
        sha256: Hash of the weights.
        parameters: Numbers in the weights.
        wall_s: Seconds that making it took.
        provenance: Where it was made.
    """

    spec: SurrogateSpec
    source: str
    sha256: str
    parameters: int
    wall_s: float
    provenance: Provenance

    @property
    def digest(self) -> str:
        """Hash of everything that decides how the surrogate behaves."""
        content = [self.spec.model_dump(mode="json"), self.source, self.sha256]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Surrogate(NamedTuple):
    """A surrogate ready for use.

    Attributes:
        name: Id in the suite.
        module: The recipe's file.
        options: The recipe's options.
        tensors: The weights.
        digest: The card's.
    """

    name: str
    module: Any
    options: Options
    tensors: Tensors
    digest: str

    def model(self, task: Task) -> nn.Module:
        """Images in [0,1] to logits for ``task``, or to features."""
        model: nn.Module = self.module.restore(self.tensors, self.options, task)
        return model.to(compute_device())


@threads(TRAINING_THREADS)
def make_surrogate(suite: Suite, name: str, paths: Paths) -> Card:
    """Make the surrogate ``name`` of the suite, and write its folder, which appears only when finished."""
    module, options, spec = _recipe(suite, name, paths)
    folder = paths.surrogate(name)
    scratch = empty_partial(folder)
    start = time.monotonic()
    with torch.random.fork_rng(devices=[]):
        tensors: Tensors = module.make(options, paths.data)
    save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, scratch / _WEIGHTS)
    card = Card(
        spec=spec,
        source=source_hash(module),
        sha256=sha256_of(scratch / _WEIGHTS),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        wall_s=round(time.monotonic() - start, 3),
        provenance=provenance(),
    )
    (scratch / _CARD).write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
    replace_folder(scratch, folder)
    return card


def load_surrogate(suite: Suite, name: str, paths: Paths) -> Surrogate:
    """The surrogate ``name`` of the suite.

    Raises:
        UserError: It has not been made, was made with other options or another recipe, or its weights were changed.
    """
    module, options, spec = _recipe(suite, name, paths)
    folder, again = paths.surrogate(name), f"`bench surrogate {name}`"
    if not (folder / _CARD).exists():
        raise UserError(f"{folder / _CARD} is missing: make the surrogate first, with {again}")
    card = parse(Card, json.loads((folder / _CARD).read_text("utf-8")), str(folder / _CARD))
    if (card.spec, card.source) != (spec, source_hash(module)):
        raise UserError(
            f"{folder} was made with other options or another recipe than the suite's; make it again: {again}"
        )
    if not (folder / _WEIGHTS).exists() or sha256_of(folder / _WEIGHTS) != card.sha256:
        raise UserError(f"{folder / _WEIGHTS} is missing or was changed since it was made; make it again: {again}")
    return Surrogate(name, module, options, load_file(folder / _WEIGHTS), card.digest)


def _recipe(suite: Suite, name: str, paths: Paths) -> tuple[Any, Options, SurrogateSpec]:
    """The recipe's file, its options, and the suite's entry with all defaults filled in."""
    spec, where = suite.surrogates[name], f"{paths.suite}: surrogates.{name}"
    module = load_item("surrogates", spec.recipe, f"{where}.recipe")
    options = item_options(module, spec.options, f"{where}.options")
    return module, options, spec.model_copy(update={"options": options.model_dump(mode="json")})
