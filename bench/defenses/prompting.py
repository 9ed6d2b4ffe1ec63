"""Deep prompts in one or both towers: the layouts that multi-modal prompt-tuning defenses share.

In each layer up to a depth a tower gets fresh vectors. They are its own, or a linear projection of the other tower's
vectors in the same layer: that is the coupling. Layers that only one tower has (the mini CLIP's text tower ends first)
get vectors of their own. Positions, norms and starting values follow the code of MaPLe (Khattak et al., CVPR 2023).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.clip.defended import DefendedCLIP
from bench.clip.staged import ImageEdits, StagedCLIP, TextEdits
from bench.config import Options
from bench.defenses.contract import Labelled, Pairs, Tensors
from bench.defenses.tuning import TuneOptions, tune
from bench.errors import UserError

Tower = Literal["image", "text"]
Coupling = Literal["image", "independent", "text_to_image", "image_to_text", "fap"]
# From a prompted model, images, labels and class texts to what is minimised.
Objective = Callable[[DefendedCLIP, Tensor, Tensor, Tensor], Tensor]


class PromptOptions(Options):
    """How many prompts.

    Attributes:
        length: n, vectors per layer in each tower that has any.
        depth: J, number of layers with prompts (at most all layers of a tower).
    """

    length: int = Field(default=2, gt=0)
    depth: int = Field(default=9, gt=0)


def photo(template: str) -> str:
    """The words that a short context starts from and stands in, whatever the dataset's template."""
    del template
    return "a photo of a {}."


class Layout(NamedTuple):
    """Where prompts are and how the towers' prompts depend on each other.

    Attributes:
        coupling: ``image`` (no text prompts), ``independent`` (VPT and CoOp in parallel), ``text_to_image`` (MaPLe),
            ``image_to_text``, or ``fap`` (layer 1 from text to image, deeper layers from image to text).
        length: Vectors per layer.
        depth: Number of layers.
        wording: As in ``TextEdits``; for contexts of up to four vectors, which start from its first words.
        image_length: Vectors per layer in the image tower, if other than ``length``; ``independent`` only.
    """

    coupling: Coupling
    length: int
    depth: int
    wording: Callable[[str], str] = photo
    image_length: int | None = None

    @property
    def worded(self) -> bool:
        """Whether the context stands in words; longer ones take the place of all words, as in CoOp."""
        return self.length <= 4


class Prompts(nn.Module):
    """The tuned vectors and projections of a layout; keys are ``<tower>_<layer>``, layers from 1."""

    def __init__(self, staged: StagedCLIP, layout: Layout, template: str = "") -> None:
        """Draw vectors from N(0, 0.02^2), but start a short context from the words of ``layout.wording(template)``."""
        super().__init__()
        self.layout = layout
        self.vectors = nn.ParameterDict()
        self.projections = nn.ModuleDict()
        widths = {"image": staged.image_width, "text": staged.text_width}
        depths = {"image": len(staged.image_blocks), "text": len(staged.text_blocks)}
        lengths = {"image": layout.image_length or layout.length, "text": layout.length}
        if layout.coupling == "image":
            del depths["text"]
        for layer in range(1, layout.depth + 1):
            present = [tower for tower, last in depths.items() if layer <= last]
            leader = _leader(layout.coupling, layer)
            for tower in present:
                if leader in present and tower != leader:
                    self.projections[f"{tower}_{layer}"] = nn.Linear(widths[leader], widths[tower])
                else:
                    vectors = 0.02 * torch.randn(lengths[tower], widths[tower])
                    self.vectors[f"{tower}_{layer}"] = nn.Parameter(vectors)
        if layout.worded and "text_1" in self.vectors:
            words = staged.word_vectors(layout.wording(template).format(""))[: layout.length]
            self.vectors["text_1"].data[: len(words)] = words
        self.to(staged.device)

    def of(self, tower: Tower) -> dict[int, Tensor]:
        """Prompts of one tower by layer; projections are computed from the present vectors."""
        other = "text" if tower == "image" else "image"
        prompts = {int(key.split("_")[1]): self.vectors[key] for key in self.vectors if key.startswith(tower)}
        for key, projection in self.projections.items():
            if key.startswith(tower):
                prompts[int(key.split("_")[1])] = projection(self.vectors[key.replace(tower, other)])
        return prompts

    def apply_to(self, victim: DefendedCLIP) -> DefendedCLIP:
        """``victim`` with these prompts."""
        image, text = self.of("image"), self.of("text")
        model = replace(victim, image_edits=ImageEdits(shallow=image.pop(1), prompts=image))
        if not text:
            return model
        wording = self.layout.wording if self.layout.worded else None
        return replace(model, text_edits=TextEdits(context=text.pop(1), wording=wording, prompts=text))

    def tensors(self) -> Tensors:
        """What a defense stores of these prompts."""
        return {name: tensor.detach() for name, tensor in self.state_dict().items()}


def fit_prompts(
    victim: DefendedCLIP,
    data: Labelled | Pairs | None,
    options: TuneOptions,
    layout: Layout,
    objective: Objective,
    name: str,
) -> Tensors:
    """Tune the prompts of ``layout`` on ``objective``; the keys are those of ``Prompts``."""
    assert isinstance(data, Labelled)
    refuse_edited(victim, name, text=layout.coupling != "image")
    prompts, task = Prompts(victim.staged, layout, data.task.template), data.task
    with torch.no_grad():
        fixed = victim.texts(task) if layout.coupling == "image" else None

    def loss(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        del epoch
        model = prompts.apply_to(victim)
        return objective(model, images, labels, model.texts(task) if fixed is None else fixed)

    tune(list(prompts.parameters()), data, loss, options, name)
    return prompts.tensors()


def load_prompts(tensors: Tensors, victim: DefendedCLIP, layout: Layout, name: str) -> DefendedCLIP:
    """The victim with tuned prompts; for any class list."""
    refuse_edited(victim, name, text=layout.coupling != "image")
    prompts = Prompts(victim.staged, layout)
    prompts.load_state_dict(tensors)
    with torch.no_grad():
        return prompts.requires_grad_(False).apply_to(victim)


def refuse_edited(victim: DefendedCLIP, name: str, *, image: bool = True, text: bool = True) -> None:
    """Check that the towers that defense ``name`` edits are as CLIP has them.

    Raises:
        UserError: Another defense has edited one, or put a head in the place of the text tower.
    """
    edited = [
        *(["image"] if image and victim.image_edits != ImageEdits() else []),
        *(["text"] if text and victim.text_edits != TextEdits() else []),
    ]
    if edited:
        towers = " and ".join(edited)
        raise UserError(f"{name} needs towers that no other defense has edited; here the {towers} tower is")
    if victim.head is not None:
        raise UserError(
            f"{name} cannot follow a linear head, which was fitted to other features; put it before linear_probe"
        )


def _leader(coupling: Coupling, layer: int) -> str:
    """The tower whose vectors the other tower's are projected from; empty if each has its own."""
    if coupling == "text_to_image" or (coupling == "fap" and layer == 1):
        return "text"
    return "image" if coupling in ("image_to_text", "fap") else ""
