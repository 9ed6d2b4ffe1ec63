"""What a defense file holds.

``Options``: a closed, frozen pydantic model with the paper's defaults.
``TUNES_ON``: ``labels`` (few-shot images of one dataset), ``pairs`` (clean image-caption pairs), ``questions`` (clean
questions, of large vision-language models), ``images`` (those of any dataset, without words; also of such models) or
``nothing``.
``fit(victim, data, options) -> dict of tensors``: everything that tuning leaves behind, and nothing else. It must not
change the victim. torch's global random stream is seeded by the caller, so libraries that use it repeat too.
``load(tensors, victim, options) -> DefendedCLIP``: the defended model, for any class list the method allows.

Data are on the processor, and the victim may compute on an accelerator: a tower takes images and edits from anywhere
and answers where it is, and ``tune`` brings the parameters and each batch there. Draw random numbers on the processor.
``load`` gets tensors that are there already, and what it makes is made there.

A file with ``DEFENDS = "lvlm"`` defends large vision-language models; it takes and gives ``DefendedLvlm``.

It may also hold ``tuned_parameters(tensors)`` and ``training_samples(data, options)``, where these are not all that is
stored and all that is handed over; ``reads(options)``, files that ``fit`` reads; and ``BUILDS_ON``, defenses whose code
it uses, so that a change of theirs is a change of it. One for large models may say ``IGNORES_VICTIM = True``: what its
``fit`` leaves is then the same on all checkpoints, and is made once. For what reckons costs, ``asks(options)`` is how
often it asks the model each question, ``multiplications(options)`` what a network of its own takes for an image, and
``wants(options)`` what must still be had before it runs, one line each.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from bench.clip.defended import DefendedCLIP, Task
from bench.config import Options

TunesOn = Literal["labels", "pairs", "questions", "images", "nothing"]
Tensors = dict[str, Tensor]


class Labelled(NamedTuple):
    """Few-shot training data.

    Attributes:
        images: ``(n, 3, h, w)`` in [0,1].
        labels: ``(n,)``.
        task: The classes and their template.
    """

    images: Tensor
    labels: Tensor
    task: Task


class Pairs(NamedTuple):
    """Clean image-caption pairs; images are uint8 ``(n, 3, h, w)``, memory-mapped: take batches of them."""

    images: Tensor
    captions: Sequence[str]


class Fit(Protocol):
    """The ``fit`` function of a defense file."""

    def __call__(self, victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
        """Tune the defense on ``data``."""
        ...


class Load(Protocol):
    """The ``load`` function of a defense file."""

    def __call__(self, tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
        """Put the tuned tensors onto the model they were tuned for."""
        ...
