"""Networks that restore images, for defenses that purify them: trained here on clean images, or published ones.

A trained network is small and kept with the defense. Of a published one only the hash is kept: it is the same for all
checkpoints, and large.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from bench.clip.contrastive import cosine_with_warmup
from bench.clip.model import weights_hash
from bench.config import Options
from bench.defenses.contract import Tensors
from bench.device import compute_device, device_of
from bench.errors import UserError
from bench.lvlm.questions import Questions
from bench.progress import track
from bench.randomness import generator

_HASH = "sha256"
Network = TypeVar("Network", bound=nn.Module)


class RestoringOptions(Options):
    """How the network is trained, where it is; none of it matters to a published one.

    Attributes:
        steps: Of Adam.
        batch_size: Images per step.
        learning_rate: Of Adam; rises over a tenth of the steps and falls to zero along half a cosine.
        seed: Of batches and of what is drawn for each image.
    """

    steps: int = Field(default=1_000, gt=0)
    batch_size: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    seed: int = 0


def train(
    network: Network,
    data: Questions | None,
    loss: Callable[[Tensor, Generator], Tensor],
    options: RestoringOptions,
    name: str,
) -> Network:
    """Train ``network`` in place on clean images, without their questions.

    Args:
        network: With random weights.
        data: Where the images come from.
        loss: From images ``(n, 3, h, w)`` in [0,1] and a stream for what has to be drawn to a scalar.
        options: How to train.
        name: Id of the defense, for messages.

    Raises:
        UserError: There are no images.
        FloatingPointError: The loss is not finite.
    """
    if data is None:
        raise UserError(f"{name}: its network is trained on images of clean questions; name some under 'pairs'")
    network.to(compute_device()).train()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer, stream = torch.optim.Adam(parameters, lr=options.learning_rate), generator(options.seed)
    for step in track(range(options.steps), f"train {name}"):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * cosine_with_warmup(step, options.steps, max(1, options.steps // 10))
        rows = torch.randint(len(data.images), (options.batch_size,), generator=stream)
        value = loss((data.images[rows].float() / 255).to(device_of(network)), stream)
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"{name}: the loss of its network is {value.item()} at step {step + 1} of {options.steps}; "
                f"lower learning_rate (now {options.learning_rate})"
            )
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return network.eval()


def trained(network: nn.Module) -> Tensors:
    """What is kept of a network that was trained here."""
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters() if tensor.requires_grad}


def published(network: nn.Module) -> Tensors:
    """What is kept of a published network."""
    return {_HASH: torch.tensor(list(bytes.fromhex(weights_hash(network))), dtype=torch.uint8)}


def restored(network: Network, tensors: Tensors, name: str) -> Network:
    """The network as it was when the defense was tuned, where it will compute, and frozen.

    Args:
        network: The published one, or one with random weights that the tensors are put into.
        tensors: What was kept.
        name: Id of the defense, for messages.

    Raises:
        UserError: The published weights have been changed since.
    """
    if _HASH not in tensors:
        network.load_state_dict(tensors, strict=False)  # what is not trained, such as where patches are, is as built
    elif not torch.equal(tensors[_HASH].cpu(), published(network)[_HASH]):
        raise UserError(f"{name}.weights: these are not the weights that the defense was tuned with; tune it again")
    return network.to(compute_device()).requires_grad_(False).eval()


def numbers(tensors: Tensors) -> int:
    """How many numbers were trained; none of a published network's."""
    return 0 if _HASH in tensors else sum(tensor.numel() for tensor in tensors.values())
