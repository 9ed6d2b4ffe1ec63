"""CWA, the Common Weakness Attack (Chen et al., ICLR 2024): an ensemble transfer attack, MI-CWA and SSA-CWA.

One outer step: a step of size ``reverse`` against the ensemble's loss (cross-entropy of the summed logits), towards
flat regions; then, surrogate by surrogate, a step along the momentum of gradients of unit L2 norm, which encourages
gradients that agree; then the outer momentum of where this led, and a sign step of size ``outer`` from where it began.
SSA-CWA takes for each surrogate's gradient the mean over copies of the image with noise and a randomly weighted
spectrum, without going back through the transform.

Follows the official ``CommonWeakness.py``, with two differences. The official code divides the outer step by the L1
norm over the whole batch, so that its result depends on the batch; here each image has its own. And its sizes, which
are fixed for eps = 16/255, are fractions of eps here (eps / 15, eps / 5). The inner step of 250 for a gradient of unit
norm takes most pixels to a face of the ball at any eps, and stays. Labels are the true ones: the surrogates are CLIPs
and can name any class. NAP-Tuning states neither eps nor surrogates; eps = 16 is the official code's.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional

from bench.attacks.contract import Knowledge, Result
from bench.config import Options as Closed
from bench.randomness import generator

METRIC = "RA"
_TINY = 1e-12


class Options(Closed):
    """Settings of the official code.

    Attributes:
        variant: ``mi`` or ``ssa``.
        eps: Radius of the ball, in /255.
        steps: Outer steps.
        reverse: Size of the reverse step, as a share of eps.
        inner: Size of the inner steps, for a gradient of unit norm.
        outer: Size of the outer step, as a share of eps.
        momentum: Decay of both momenta.
        copies: For ``ssa``: images that a gradient is averaged over.
        noise: For ``ssa``: standard deviation of the noise, in /255.
        spectrum: For ``ssa``: each frequency is weighted by 1 - spectrum to 1 + spectrum.
    """

    variant: Literal["mi", "ssa"] = "mi"
    eps: float = Field(default=16.0, ge=0)
    steps: int = Field(default=10, ge=0)
    reverse: float = Field(default=1 / 15, ge=0)
    inner: float = Field(default=250.0, gt=0)
    outer: float = Field(default=1 / 5, gt=0)
    momentum: float = Field(default=1.0, ge=0)
    copies: int = Field(default=20, gt=0)
    noise: float = Field(default=16.0, ge=0)
    spectrum: float = Field(default=0.5, ge=0)


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge,
) -> Result:
    """Raise the surrogates' losses together.

    Raises:
        ValueError: There is no surrogate.
    """
    del model
    surrogates, eps = knowledge.surrogates, options.eps / 255
    if not surrogates:
        raise ValueError("cwa needs surrogates: threat_model transfer, and the attack's key 'surrogates'")
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    streams = [generator(seed) for seed in seeds]
    inner = outer = torch.zeros_like(images)
    x = images
    for _ in range(options.steps):
        began = x
        uphill = _gradient(lambda at: sum((net(at) for net in surrogates), start=at.new_zeros(())), x, labels)
        x = (x - options.reverse * eps * uphill.sign()).clamp(low, high)
        for net in surrogates:
            gradient = _gradient(net, x, labels) if options.variant == "mi" else _ssa(net, x, labels, options, streams)
            inner = options.momentum * inner + gradient / _norms(gradient, 2)
            x = (x + options.inner * inner).clamp(low, high)
        outer = options.momentum * outer + (x - began) / _norms(x - began, 1)
        x = (began + options.outer * eps * outer.sign()).clamp(low, high)
    return Result(x, eps)


def passes(options: Options, classes: int, surrogates: int) -> tuple[int, int]:
    """Passes per image: none forward only, and a gradient of every surrogate for both steps."""
    del classes
    copies = options.copies if options.variant == "ssa" else 1
    return 0, options.steps * surrogates * (1 + copies)


def _gradient(logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    inputs = images.detach().requires_grad_()
    loss = functional.cross_entropy(logits(inputs), labels, reduction="sum")
    return torch.autograd.grad(loss, inputs)[0]


def _norms(tensor: Tensor, order: int) -> Tensor:
    """Each image's norm, for broadcasting; never zero."""
    return torch.linalg.vector_norm(tensor, ord=order, dim=(1, 2, 3), keepdim=True).clamp(min=_TINY)


def _ssa(net: nn.Module, images: Tensor, labels: Tensor, options: Options, streams: Sequence[Generator]) -> Tensor:
    """Mean gradient over copies of ``images`` whose spectrum is weighted at random."""
    total = torch.zeros_like(images)
    for _ in range(options.copies):
        drawn = [_perturbation(images.shape[1:], options, stream) for stream in streams]
        noise, weights = (torch.stack(parts).to(images) for parts in zip(*drawn, strict=True))
        total += _gradient(net, idct(dct(images + noise) * weights), labels)
    return total / options.copies


def _perturbation(shape: torch.Size, options: Options, stream: Generator) -> tuple[Tensor, Tensor]:
    """Noise for one image and weights for its frequencies."""
    noise = options.noise / 255 * torch.randn(shape, generator=stream)
    return noise, 1 + options.spectrum * (2 * torch.rand(shape, generator=stream) - 1)


def dct(images: Tensor) -> Tensor:
    """Orthonormal two-dimensional DCT-II over the last two dimensions."""
    return _cosines(images.shape[-2], images) @ images @ _cosines(images.shape[-1], images).T


def idct(spectrum: Tensor) -> Tensor:
    """Inverse of ``dct``."""
    return _cosines(spectrum.shape[-2], spectrum).T @ spectrum @ _cosines(spectrum.shape[-1], spectrum)


def _cosines(size: int, like: Tensor) -> Tensor:
    """The DCT-II as an orthogonal matrix."""
    places = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(torch.pi / size * (places + 0.5) * places[:, None]) * (2 / size) ** 0.5
    matrix[0] /= 2**0.5
    return matrix.to(like)
