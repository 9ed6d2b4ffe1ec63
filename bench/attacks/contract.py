"""What an attack file holds.

``Options``: a closed, frozen pydantic model (``bench.config.Options``) with the paper's defaults; eps is in /255 there.
``attack(model, images, labels, *, options, seeds, knowledge) -> Result``: from images in [0,1] to adversarial
images.
``prompt_prefix(options, trigger) -> str``, where an attack changes the class prompts as well: what it puts before them.
``METRIC``: what is counted afterwards; ``RA`` for evasion attacks.
``NOISE_PER_BATCH = True``, where noise depends on how images are put into batches.
``NEEDS``, where that is not ``logits``: ``features``, of a surrogate without classes; or ``values``, how alike the
value of each patch is to each word, ``(n, patches, words)``, with the places of the word for what is shown and of the
one for what is wanted as labels ``(n, 2)``.
``BUILDS_ON``: modules of other attacks whose code it uses, so that a change of theirs is a change of it.
``passes(options, classes, surrogates) -> (forwards, gradients)``: passes per image, for the estimate, where the option
``steps`` does not say it.

Attacks are called through ``bench.attacks.checked`` only, which checks bounds and counts passes. It brings images and
labels to where the model computes; random numbers are drawn on the processor and follow.
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
        encoder: From images to the image embeddings of the model that the attacker sees, where it is a CLIP.
        surrogates: Under ``transfer``, the models that the attack is made on, each from images to logits, or to what
            the attack file says that it needs.
    """

    trigger: Trigger | None = None
    encoder: nn.Module | None = None
    surrogates: tuple[nn.Module, ...] = ()


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
            model: Images in [0,1] to logits; differentiable, in evaluation mode, without parameter gradients. Under
                ``transfer``, the mean of the surrogates: the attacked model is out of reach.
            images: Clean images ``(n, 3, h, w)``.
            labels: True classes ``(n,)``.
            options: The attack file's ``Options``.
            seeds: One per image; all randomness comes from these.
            knowledge: What else the attacker knows.
        """
        ...
