"""The one call around every attack: bounds, range and NaN are checked here, and passes are counted."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.attacks.contract import Knowledge
from bench.config import Options
from bench.device import device_of, free_cache
from bench.progress import console

# An eps of n/255 is not a binary fraction; float32 rounding of image +- eps stays below this.
_ROUNDING = 1e-6
_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


class Attacked(NamedTuple):
    """A checked result.

    Attributes:
        images: Adversarial images.
        flags: Warnings about the evaluation.
        forwards: Images passed through the model.
        backwards: Images passed back through it.
    """

    images: Tensor
    flags: frozenset[str]
    forwards: int
    backwards: int


class Counting(nn.Module):
    """Passes images through another module and counts them, forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap ``model``."""
        super().__init__()
        self.model = model
        self.forwards = 0
        self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images``."""
        self.forwards += len(images)
        logits = self.model(images)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    @property
    def counts(self) -> tuple[int, int]:
        """Images passed through so far, forward and backward."""
        return self.forwards, self.backwards

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def attack_in_parts(
    module: Any,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge | None = None,
) -> Attacked:
    """``run_attack``, in halves of the batch where memory runs out; says so.

    An attack whose noise belongs to the batch gives another result then, and the flag ``batch_halved``.

    Raises:
        RuntimeError: One image alone is too much.
    """
    try:
        return run_attack(module, model, images, labels, options=options, seeds=seeds, knowledge=knowledge)
    except RuntimeError as error:
        if not _is_out_of_memory(error) or len(images) == 1:
            raise
    # Out of the handler, whose traceback keeps the tensors of the failed try.
    free_cache(device_of(model))
    half = len(images) // 2
    console.print(f"out of memory with {len(images)} images at a time; going on with {half}", style="yellow")
    parts = [
        attack_in_parts(
            module, model, images[part], labels[part], options=options, seeds=seeds[part], knowledge=knowledge
        )
        for part in (slice(half), slice(half, None))
    ]
    flags = frozenset({"batch_halved"} if getattr(module, "NOISE_PER_BATCH", False) else ())
    return Attacked(
        torch.cat([part.images for part in parts]),
        flags.union(*(part.flags for part in parts)),
        sum(part.forwards for part in parts),
        sum(part.backwards for part in parts),
    )


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out; on some devices, and from some libraries, that is a plain ``RuntimeError``."""
    return isinstance(error, torch.OutOfMemoryError) or any(phrase in str(error) for phrase in _NO_MEMORY)


def run_attack(
    module: Any,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge | None = None,
) -> Attacked:
    """Run the attack of an attack file and check what it returns.

    Args:
        module: The attack file's module.
        model: What to attack.
        images: Clean images in [0,1], ``(n, 3, h, w)`` float32; they and the labels go where the model is, and the
            result comes back to where they were.
        labels: True classes.
        options: The attack file's options.
        seeds: One per image.
        knowledge: What the attacker knows beside the model.

    Raises:
        ValueError: The images are outside [0,1], or the attack broke its contract.
    """
    if not (images.min() >= 0 and images.max() <= 1):  # also where one is NaN
        raise ValueError(
            f"images must lie in [0,1], not [{images.min():.3f}, {images.max():.3f}]: normalise in the model"
        )
    if len(seeds) != len(images):
        raise ValueError(f"{len(images)} images need as many seeds, not {len(seeds)}")
    home, there = images.device, device_of(model)
    images, labels = images.to(there), labels.to(there)
    before = images.clone()
    knowledge, counting = knowledge or Knowledge(), Counting(model)
    encoder = Counting(knowledge.encoder) if knowledge.encoder is not None else None
    surrogates = tuple(map(Counting, knowledge.surrogates))
    seen = knowledge._replace(encoder=encoder, surrogates=surrogates)
    result = module.attack(counting, images, labels, options=options, seeds=seeds, knowledge=seen)
    counters = [counting, *([encoder] if encoder is not None else []), *surrogates]
    name = module.__name__.rsplit(".", 1)[-1]
    if not torch.equal(before, images):
        raise ValueError(f"attack '{name}' changed its input in place")
    if result.images.shape != images.shape or result.images.dtype != images.dtype:
        raise ValueError(f"attack '{name}' returned {tuple(result.images.shape)} {result.images.dtype} images")
    flags, adversarial = set(result.flags), result.images.detach()
    spoiled = torch.isnan(adversarial).flatten(1).any(dim=1)
    if spoiled.any():
        # A sample that turned into NaN was not attacked; it stands as it was and the result is marked.
        flags.add("nan")
        adversarial = torch.where(spoiled[:, None, None, None], images, adversarial)
    if adversarial.min() < 0 or adversarial.max() > 1:
        raise ValueError(f"attack '{name}' left the range [0,1]")
    if result.eps is not None and (adversarial - images).abs().max() > result.eps + _ROUNDING:
        raise ValueError(f"attack '{name}' left the ball of radius {result.eps * 255:.3f}/255")
    forwards, backwards = (sum(counts) for counts in zip(*(each.counts for each in counters), strict=True))
    return Attacked(adversarial.to(home), frozenset(flags), forwards, backwards)
