"""AdvVP: adversarial visual prompting (TeCoA's, Mao et al., ICLR 2023; named so by FAP and CBA-FAPT).

A border around the image and a few extra input tokens are tuned with cross-entropy on attacked images, against the
dataset's own template. The border is added to the normalised image, which keeps its size and place; the tokens follow
the patches of layer 1 before the tower's first norm, and no deeper prompts replace them. Settings are FAP's;
the learning rate of 40 is no slip. TeCoA's code has 100 tokens, batch 256, no decay and a warm-up by steps, and the
template "This is a photo of a {}".
"""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.clip.defended import DefendedCLIP
from bench.clip.staged import ImageEdits, StagedCLIP
from bench.defenses.adversarial import AttackOptions, adversarial_loss
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.prompting import refuse_edited
from bench.defenses.tuning import tune
from bench.errors import UserError

TUNES_ON: TunesOn = "labels"


class Options(AttackOptions):
    """FAP's settings.

    Attributes:
        pad: Width of the border, in pixels; 0 is no border.
        tokens: Number of extra input tokens.
    """

    learning_rate: float = Field(default=40.0, gt=0)
    epochs: int = Field(default=10, gt=0)
    batch_size: int = Field(default=4, gt=0)
    augment: bool = False
    pad: int = Field(default=30, ge=0)
    tokens: int = Field(default=5, ge=0)


class VisualPrompt(nn.Module):
    """The border's four sides and the tokens, drawn from N(0, 1)."""

    def __init__(self, staged: StagedCLIP, options: Options) -> None:
        """Make a border for the tower's image size."""
        super().__init__()
        self.size, pad = staged.clip.image_size, options.pad
        self.inside = self.size - 2 * pad
        if self.inside <= 0:
            raise UserError(f"advvp: a border of pad {pad} leaves nothing of an image of {self.size} pixels")
        self.up, self.down = (nn.Parameter(torch.randn(3, pad, self.size)) for _ in range(2))
        self.left, self.right = (nn.Parameter(torch.randn(3, self.inside, pad)) for _ in range(2))
        self.tokens = nn.Parameter(torch.randn(options.tokens, staged.image_width))

    def border(self, normalised: Tensor) -> Tensor:
        """Normalised images ``(n, 3, size, size)`` with the border added."""
        middle = torch.cat([self.left, self.left.new_zeros(3, self.inside, self.inside), self.right], dim=2)
        return normalised + torch.cat([self.up, middle, self.down], dim=1)

    def apply_to(self, victim: DefendedCLIP) -> DefendedCLIP:
        """``victim`` with border and tokens."""
        return replace(victim, image_edits=ImageEdits(pixels=self.border, shallow=self.tokens))


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune border and tokens; the keys are those of ``VisualPrompt``."""
    assert isinstance(data, Labelled)
    refuse_edited(victim, "advvp", text=False)
    prompt = VisualPrompt(victim.staged, options)
    model = prompt.apply_to(victim)
    with torch.no_grad():
        texts = victim.texts(data.task)

    def loss(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        del epoch
        return adversarial_loss(model, images, labels, texts, options)

    tune(list(prompt.parameters()), data, loss, options, "advvp")
    return {name: tensor.detach() for name, tensor in prompt.state_dict().items()}


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with border and tokens, for any class list."""
    refuse_edited(victim, "advvp", text=False)
    prompt = VisualPrompt(victim.staged, options)
    prompt.load_state_dict(tensors)
    return prompt.requires_grad_(False).apply_to(victim)
