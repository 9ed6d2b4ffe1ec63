"""A CLIP with whatever a defense adds to it: edits of both towers, or a head instead of the text tower."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.clip.classifier import Classifier, scaled_cosine, sentences
from bench.clip.model import Clip
from bench.clip.staged import ImageEdits, StagedCLIP, TextEdits, Trace
from bench.errors import UserError

# One id in CLIP's and in the mini CLIP's vocabulary; learned context vectors take its place.
PLACEHOLDER = "X"


class Task(NamedTuple):
    """What to tell apart.

    Attributes:
        class_names: One per class, in the order of the labels.
        template: Prompt with ``{}`` for the class name.
    """

    class_names: tuple[str, ...]
    template: str


class Head(NamedTuple):
    """A linear classifier on image embeddings, tied to the classes it was trained on."""

    weight: Tensor
    bias: Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class DefendedCLIP:
    """What defenses take and give, so that they compose.

    Attributes:
        staged: The CLIP underneath.
        image_edits: Edits of the image tower.
        text_edits: Edits of the text tower.
        head: Used instead of the text tower where given.
        origin: The CLIP whose place ``staged`` took, where a defense changed weights and kept what they were.
    """

    staged: StagedCLIP
    image_edits: ImageEdits = field(default_factory=ImageEdits)
    text_edits: TextEdits = field(default_factory=TextEdits)
    head: Head | None = None
    origin: StagedCLIP | None = None

    def with_clip(self, clip: Clip) -> "DefendedCLIP":
        """The same with other weights underneath; the first ones stay known as ``origin``."""
        return replace(self, staged=StagedCLIP(clip), origin=self.origin or self.staged)

    @property
    def reads_prompts(self) -> bool:
        """Whether classes are named by a template's words, not by learned context vectors or a head."""
        return self.head is None and self.text_edits.context is None

    def image(self, images: Tensor, trace: Trace | None = None) -> Tensor:
        """Embeddings ``(n, d)`` of images in [0,1], not normalised."""
        return self.staged.image(images, self.image_edits, trace)

    def texts(self, task: Task, trace: Trace | None = None) -> Tensor:
        """Normalised embeddings of the class prompts, ``(classes, d)``.

        Raises:
            UserError: As ``prompts``.
        """
        return self.staged.features_of(self.prompts(task), self.text_edits, trace)

    def prompts(self, task: Task) -> list[str]:
        """The sentence of each class, with words where learned context vectors will stand.

        These take the place of the template, as in CoOp, or of its first words.

        Raises:
            UserError: The context leaves no room for the class names, or was tuned for each class of another list.
        """
        context, wording, own = self.text_edits.context, self.text_edits.wording, self.text_edits.class_names
        if own and own != task.class_names:
            raise UserError(
                f"this defense has a context for each of {len(own)} classes ({own[0]}, ...), it cannot name the "
                f"{len(task.class_names)} classes of this dataset; tune it there"
            )
        template = task.template if context is None else placeholders(context.shape[-2])
        prompts = sentences(task.class_names, wording(task.template) if wording else template)
        if context is not None:
            self._check_room(prompts, context.shape[-2])
        return prompts

    def _check_room(self, prompts: list[str], length: int) -> None:
        """open_clip cuts long prompts off without a word, and with them the class names."""
        places = self.staged.context_length
        no_room = f"{length} context vectors leave no room for the class names among {places} tokens"
        try:
            full = bool((self.staged.clip.tokenize(prompts).argmax(dim=-1) >= places - 1).any())
        except UserError as error:
            raise UserError(f"{no_room}, or the names cannot be read: {error}") from error
        if full:
            raise UserError(no_room)

    def logits(self, images: Tensor, texts: Tensor, trace: Trace | None = None) -> Tensor:
        """CLIP's logits of images in [0,1] against prompt embeddings."""
        return scaled_cosine(self.staged, self.image(images, trace), texts)

    @torch.no_grad()
    def classifier(self, task: Task) -> Classifier:
        """The classifier for ``task``; its text features are computed here, once.

        Raises:
            UserError: A head was trained on other classes.
        """
        parts: Sequence[nn.Module] = [self.staged.clip.model]
        if self.head is None:
            texts = self.texts(task)
            return Classifier(lambda images: self.logits(images, texts), len(task.class_names), parts)
        head = self.head
        if head.class_names != task.class_names:
            raise UserError(
                f"this defense ends in a linear head for {len(head.class_names)} classes ({head.class_names[0]}, ...), "
                f"it cannot name the {len(task.class_names)} classes of this dataset; tune it there"
            )
        return Classifier(
            lambda images: functional.linear(self.image(images), head.weight, head.bias), len(task.class_names), parts
        )


def placeholders(length: int) -> str:
    """The template whose first ``length`` words are replaced by context vectors."""
    return " ".join([PLACEHOLDER] * length) + " {}."
