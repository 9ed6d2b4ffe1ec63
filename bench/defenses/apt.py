"""APT, Adversarial Prompt Tuning of the text context (Li et al., CVPR 2024).

A context before the class names is tuned with cross-entropy on images that are attacked in every step; the image tower
stays as it is. What text the attack sees is the prompting strategy: the current context (``onfly``), a fixed template
(``constant``), or a copy of the context that is ascended along with the images and then thrown away (``perturbed``; the
official trainer calls it ``optimized``, and its script's ``perturbed`` falls through to ``onfly``). The paper's own
protocol tunes on top of a TeCoA image tower trained at the same eps, not on plain CLIP. The official attack clamps to
[0,1] only what it shows to the model; ours projects every step.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.clip.defended import DefendedCLIP
from bench.clip.staged import TextEdits
from bench.defenses.adversarial import AttackOptions, Loss, attack_model, perturb
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.prompting import refuse_edited
from bench.defenses.tuning import tune

TUNES_ON: TunesOn = "labels"
FIXED_TEMPLATE = "a photo of a {}"


class Options(AttackOptions):
    """The paper's settings (50 epochs on ImageNet; 20, 100 and 200 elsewhere). Steps are 2/3 eps if not given.

    Attributes:
        context: M, number of context vectors.
        class_specific: A context for each class; such a defense knows no other classes.
        strategy: The text that the training attack sees.
        prompt_rate: Step of the context's ascent in ``perturbed`` (plain gradient; the code has no default).
    """

    learning_rate: float = Field(default=0.002, gt=0)
    epochs: int = Field(default=50, gt=0)
    eps: float = Field(default=4.0, ge=0)
    attack_steps: int = Field(default=3, ge=0)
    context: int = Field(default=16, gt=0)
    class_specific: bool = False
    strategy: Literal["onfly", "constant", "perturbed"] = "onfly"
    prompt_rate: float = Field(default=0.01, ge=0)

    @property
    def step_size(self) -> float:
        """Step size in /255."""
        return self.eps * 2 / 3 if self.step is None else self.step


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune ``context`` ``(n, width)``, or ``(classes, n, width)`` with the ``class_names`` beside it."""
    assert isinstance(data, Labelled)
    refuse_edited(victim, "apt", image=False)
    names = data.task.class_names
    shape = (options.context, victim.staged.text_width)
    context = nn.Parameter(
        0.02 * torch.randn(len(names), *shape) if options.class_specific else 0.02 * torch.randn(shape)
    )
    task = data.task
    with torch.no_grad():
        fixed = victim.texts(task._replace(template=FIXED_TEMPLATE))

    def loss(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        del epoch
        texts = _prompted(victim, context).texts(task)
        if options.strategy == "perturbed":
            attacked = perturb(moving_context_loss(victim, data, context, labels, options.prompt_rate), images, options)
        else:
            seen = texts if options.strategy == "onfly" else fixed
            attacked = attack_model(victim, images, labels, seen, options)
        return functional.cross_entropy(victim.logits(attacked, texts), labels)

    tune([context], data, loss, options, "apt")
    tensors = {"context": context.detach()}
    if options.class_specific:
        tensors["class_names"] = torch.tensor(list("\n".join(names).encode()), dtype=torch.uint8)
    return tensors


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the context; for any class list, unless it is class-specific."""
    del options
    refuse_edited(victim, "apt", image=False)
    names = ()
    if "class_names" in tensors:
        names = tuple(bytes(tensors["class_names"].tolist()).decode().split("\n"))
    return _prompted(victim, tensors["context"], names)


def tuned_parameters(tensors: Tensors) -> int:
    """The context; class names stored beside it are not tuned."""
    return tensors["context"].numel()


def moving_context_loss(victim: DefendedCLIP, data: Labelled, context: Tensor, labels: Tensor, rate: float) -> Loss:
    """Cross-entropy under a copy of ``context`` that each evaluation moves up its own gradient; ``context`` stays."""
    moved = context.detach().clone()

    def loss(candidates: Tensor) -> Tensor:
        nonlocal moved
        moved.requires_grad_()
        texts = _prompted(victim, moved).texts(data.task)
        value = functional.cross_entropy(victim.logits(candidates, texts), labels)
        (gradient,) = torch.autograd.grad(value, moved, retain_graph=True)
        moved = moved.detach() + rate * gradient
        return value

    return loss


def _prompted(victim: DefendedCLIP, context: Tensor, class_names: tuple[str, ...] = ()) -> DefendedCLIP:
    return replace(victim, text_edits=TextEdits(context=context, class_names=class_names))
