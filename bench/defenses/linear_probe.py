"""Linear probe: a linear classifier on the frozen image embeddings; the text tower is not used.

Settings of the RVPT paper (SGD 0.01, constant, 40 epochs), on the projected, un-normalised embedding as in CleanCLIP's
code. Features are computed once, without augmentation.
"""

from dataclasses import replace

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from bench.clip.defended import DefendedCLIP, Head, Task
from bench.config import Options as Closed
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.tuning import shuffled

TUNES_ON: TunesOn = "labels"


class Options(Closed):
    """RVPT's settings."""

    learning_rate: float = Field(default=0.01, gt=0)
    epochs: int = Field(default=40, gt=0)
    batch_size: int = Field(default=32, gt=0)


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Train ``weight`` (classes, d) and ``bias`` (classes,)."""
    assert isinstance(data, Labelled)
    with torch.no_grad():
        features = torch.cat([victim.image(images).cpu() for images in data.images.split(256)])
    head = nn.Linear(features.shape[1], len(data.task.class_names))
    optimizer = torch.optim.SGD(head.parameters(), lr=options.learning_rate, momentum=0.9)
    for _ in range(options.epochs):
        for rows in shuffled(len(features), options.batch_size):
            loss = functional.cross_entropy(head(features[rows]), data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return stored(head, data.task)


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the probe in the place of its text tower."""
    del options
    names = bytes(tensors["class_names"].tolist()).decode().split("\n")
    return replace(victim, head=Head(tensors["weight"], tensors["bias"], tuple(names)))


def stored(head: nn.Linear, task: Task) -> Tensors:
    """The head's tensors, with the names of the classes that it tells apart."""
    names = torch.tensor(list("\n".join(task.class_names).encode()), dtype=torch.uint8)
    return {"weight": head.weight.detach(), "bias": head.bias.detach(), "class_names": names}


def tuned_parameters(tensors: Tensors) -> int:
    """Weights and biases; the class names stored beside them are not tuned."""
    return sum(tensor.numel() for name, tensor in tensors.items() if name != "class_names")
