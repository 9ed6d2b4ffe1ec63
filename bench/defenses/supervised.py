"""A tower trained from scratch on labelled images alone: no defense, but RVPT's point of comparison (figure 1 a).

RVPT compares CLIP with a vision transformer pre-trained on ImageNet only, whose size it does not state. Here it has the
shape of the victim's image tower, random weights to begin with, and a linear head; the victim's weights are not used.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.clip.defended import DefendedCLIP
from bench.clip.model import build
from bench.clip.staged import StagedCLIP
from bench.defenses import linear_probe
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tuning import TuneOptions, tune

TUNES_ON: TunesOn = "labels"
_TOWER = "tower."


class Options(TuneOptions):
    """Ours, for a small tower on few images."""

    learning_rate: float = Field(default=1e-3, gt=0)
    epochs: int = Field(default=60, gt=0)
    batch_size: int = Field(default=64, gt=0)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    weight_decay: float = Field(default=0.05, ge=0)
    crop: float = Field(default=0.5, gt=0, le=1)


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Train ``tower.*``, ``weight`` (classes, d) and ``bias`` (classes,)."""
    assert isinstance(data, Labelled)
    staged = StagedCLIP(build(victim.staged.clip.architecture))
    head, tower = nn.Linear(staged.embedding_width, len(data.task.class_names)), staged.visual.requires_grad_(True)

    def loss(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        del epoch
        return functional.cross_entropy(head(staged.image(images)), labels)

    tune([*tower.parameters(), *head.parameters()], data, loss, options, "supervised")
    trained = {_TOWER + name: tensor.detach() for name, tensor in tower.state_dict().items()}
    return trained | linear_probe.stored(head, data.task)


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """A new tower with its head."""
    del options
    clip = build(victim.staged.clip.architecture)
    tower = {name.removeprefix(_TOWER): tensor for name, tensor in tensors.items() if name.startswith(_TOWER)}
    StagedCLIP(clip).visual.load_state_dict(tower)
    clip.model.requires_grad_(False)
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(_TOWER)}
    return linear_probe.load(rest, DefendedCLIP(StagedCLIP(clip)), linear_probe.Options())


tuned_parameters = linear_probe.tuned_parameters
