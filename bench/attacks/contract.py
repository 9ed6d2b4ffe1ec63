"""What an attack file holds.

``Options``: a closed, frozen pydantic model (``bench.config.Options``) with the paper's defaults; eps is in /255 there.
``attack(model, images, labels, *, options, seeds, knowledge) -> Attack.Result``: from images in [0,1] to adversarial
images. Attacks are called through ``bench.attacks.checked`` only, which checks bounds and counts passes.
``prompt_prefix(options, trigger) -> str``, where an attack changes the class prompts as well: what it puts before them.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from bench.backdoors.trigger import Trigger
from bench.config import Options


class Knowledge(NamedTuple):
    """What the attacker knows beside the model it differentiates.

    Attributes:
        trigger: The pattern planted in the checkpoint, if any.
    """

    trigger: Trigger | None = None


class Result(NamedTuple):
    """What an attack returns.

    Attributes:
        images: Adversarial images, shaped like the clean ones.
        flags: Warnings about the evaluation, such as AutoAttack's.
        eps: Bound on the largest change of a pixel, in [0,1]; None if the attack has none.
    """

    images: Tensor
    eps: float | None
    flags: frozenset[str] = frozenset()


class Attack(Protocol):
    """The ``attack`` function of an attack file."""

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        options: Options,
        seeds: Sequence[int],
        knowledge: Knowledge,
    ) -> Result:
        """Run the attack.

        Args:
            model: Images in [0,1] to logits; differentiable, in evaluation mode, without parameter gradients.
            images: Clean images ``(n, 3, h, w)``.
            labels: True classes ``(n,)``.
            options: The attack file's ``Options``.
            seeds: One per image; all randomness comes from these.
            knowledge: What else the attacker knows.
        """
        ...
