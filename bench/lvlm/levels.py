"""What of a model is fine-tuned: the projector, a low-rank change of the decoder, or all but the image tower.

All of it is trained in float32, whatever format the model has; a low-rank change is rounded once, when it is merged.
"""

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from bench.lvlm.model import Lvlm
from bench.lvlm.options import Level, TuneOptions

_LOW_RANK = re.compile(r".*\.(q_proj|v_proj)\.weight")


@contextmanager
def tunable(lvlm: Lvlm, options: TuneOptions) -> Generator[list[nn.Parameter]]:
    """The parameters to train; afterwards the model has its own form again, with what was learnt in its weights."""
    if options.level != "lora":
        names = tuned_names(lvlm, options.level)
        with _exact([parameter for name, parameter in lvlm.model.named_parameters() if name in names]) as parameters:
            yield parameters
        return
    targets = [name.removesuffix(".weight") for name in tuned_names(lvlm, "lora")]
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, lora_dropout=0.0, target_modules=targets)
    wrapped = get_peft_model(lvlm.model, config)
    try:
        yield [parameter for name, parameter in wrapped.named_parameters() if "lora_" in name]
    finally:
        wrapped.merge_and_unload()


@contextmanager
def _exact(parameters: list[nn.Parameter]) -> Generator[list[nn.Parameter]]:
    """Parameters in float32, and in their own format again afterwards."""
    formats = [parameter.dtype for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    try:
        yield parameters
    finally:
        for parameter, own in zip(parameters, formats, strict=True):
            parameter.grad = None
            parameter.data = parameter.data.to(own)


def tuned_names(lvlm: Lvlm, level: Level) -> set[str]:
    """Names of the tensors that tuning at ``level`` changes."""
    named: dict[str, Tensor] = dict(lvlm.model.named_parameters())
    if level == "projector":
        return _names_in(named, lvlm.family.adapters(lvlm.model))
    if level == "lora":
        decoder = _names_in(named, [lvlm.family.decoder(lvlm.model)])
        return {name for name in decoder if _LOW_RANK.fullmatch(name)}
    # In some families the adapters are a part of the tower's module.
    tower, adapters = ([lvlm.family.tower(lvlm.model)], lvlm.family.adapters(lvlm.model))
    return (named.keys() - _names_in(named, tower)) | _names_in(named, adapters)


def _names_in(named: dict[str, Tensor], modules: Iterable[nn.Module]) -> set[str]:
    inside = {id(parameter) for module in modules for parameter in module.parameters()}
    return {name for name, parameter in named.items() if id(parameter) in inside}
