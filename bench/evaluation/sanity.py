"""Checks that a white-box number can be believed, run on a few images of every cell; what they find becomes flags.

From Athalye et al. (2018) and Carlini et al. (2019): a defense that hides its gradients looks robust and is not. Flags:
``randomised`` (the same image gives other logits), ``probabilities`` (softmax outputs instead of logits),
``quantised_input`` (a change far below one grey level moves no logit of an image: the input is rounded, or ignored),
``saturated_logits`` (one class leads so far that the others' probabilities are zero in float32, and with them the
gradient of the cross-entropy), ``zero_gradient`` (images without any input gradient), ``uninformative_gradient`` (a
step along the gradient's sign raises the loss no more than a step along random signs).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.randomness import generator

_SAME = 1e-4
_PROBE_EPS = 1 / 255
# Images are whole grey levels; rounding to fewer levels has its edges further from those than this.
_BELOW_A_LEVEL = 0.01 / 255
_RIVALS = 4


def masking_flags(model: nn.Module, images: Tensor, labels: Tensor) -> frozenset[str]:
    """Names of the checks that ``model`` fails.

    Args:
        model: Images in [0,1] to logits.
        images: A few clean images.
        labels: Their classes.
    """
    flags = set[str]()
    with torch.no_grad():
        first, second = model(images), model(images)
    if not torch.allclose(first, second, rtol=_SAME, atol=_SAME):
        flags.add("randomised")
    if bool((_nudged(model, images) == second).all(dim=1).any()):
        flags.add("quantised_input")
    if bool((first.softmax(dim=1).gt(0).sum(dim=1) == 1).any()):
        flags.add("saturated_logits")
    sums = first.sum(dim=1)
    if first.min() >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=_SAME):
        flags.add("probabilities")
    gradient = _gradient(model, images, labels)
    if gradient is None or bool((gradient.flatten(1).abs().sum(dim=1) == 0).any()):
        flags.add("zero_gradient")
    if gradient is None or not _beats_noise(model, images, labels, gradient):
        flags.add("uninformative_gradient")
    return frozenset(flags)


def _gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
    """Input gradient of the summed cross-entropy, or None where the output does not depend on the input."""
    inputs = images.clone().requires_grad_()
    logits = model(inputs)
    if not logits.requires_grad:
        return None
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    return torch.autograd.grad(loss, inputs, allow_unused=True)[0]


@torch.no_grad()
def _nudged(model: nn.Module, images: Tensor) -> Tensor:
    """Logits after a random change far below one grey level."""
    noise = torch.rand(images.shape, generator=generator(0)) - 0.5
    return model((images + _BELOW_A_LEVEL * noise.sign().to(images)).clamp(0, 1))


@torch.no_grad()
def _beats_noise(model: nn.Module, images: Tensor, labels: Tensor, gradient: Tensor) -> bool:
    """Whether the gradient's signs raise the loss more than any of eight random directions does, for most images."""
    stream = generator(0)
    noises = [(torch.rand(images.shape, generator=stream) - 0.5).sign().to(images) for _ in range(_RIVALS)]

    def loss(direction: Tensor) -> Tensor:
        moved = (images + _PROBE_EPS * direction).clamp(0, 1)
        return functional.cross_entropy(model(moved), labels, reduction="none")

    best = torch.stack([loss(sign * noise) for noise in noises for sign in (1, -1)]).amax(dim=0)
    return bool((loss(gradient.sign()) > best).float().mean() > 0.5)
