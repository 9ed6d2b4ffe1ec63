"""V-Attack (Nie et al., 2025; arXiv 2511.20223): one object becomes another one in the values of a CLIP's image tower.

In the last attention, the value of a patch says what the patch shows without what other patches say (see
``bench/clip/values.py``). Patches whose values are more like the name of the object that is shown than half-way between
the image's least and most like are moved away from that name and towards the name of another object. No answer of a
language model is looked at, so that the attack is made on CLIPs and meets whatever sees with a tower like theirs.

As in the final code: Adam from the image itself, in /255; the mask is that of the clean image; the loss is the mean
over all patches. That code cuts the image at random in each step where it works on several surrogates (``crop``), and
takes the mask of one such cut; here the mask is that of the whole image.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks.contract import Knowledge, Result
from bench.config import Options as Closed
from bench.randomness import draw_each

METRIC = "RA"
NEEDS = "values"
_LEAST_RATIO = 3 / 4


class Options(Closed):
    """Settings of R-Adapt's test, and of the final code for one surrogate.

    Attributes:
        eps: Radius of the ball, in /255.
        steps: Number of steps.
        learning_rate: Adam's, in /255.
        crop: Least share of the area that a random cut keeps, which is then as large as the image; 0.75 in the code for
            several surrogates. No cut if null.
    """

    eps: float = Field(default=16.0, ge=0)
    steps: int = Field(default=300, ge=0)
    learning_rate: float = Field(default=0.75, gt=0)
    crop: float | None = Field(default=None, gt=0, le=1)


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    options: Options,
    seeds: Sequence[int],
    knowledge: Knowledge,
) -> Result:
    """Turn the object that each image shows into another one.

    ``model``, like each surrogate, says how alike the value of each patch is to each word, ``(n, patches, words)``;
    ``labels`` ``(n, 2)`` are the places of the word for what is shown and of the one for what is wanted.
    """
    models = knowledge.surrogates or (model,)
    with torch.no_grad():
        masks = [shown_in(each(images), labels) for each in models]
    cuts = None if options.crop is None else _cuts(options.crop, options.steps, seeds).to(images)
    change = torch.zeros_like(images, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=options.learning_rate)
    for step in range(options.steps):
        candidates = (images + change / 255).clamp(0, 1)
        if cuts is not None:
            candidates = _cut(candidates, cuts[:, step])
        gains = [turned(each(candidates), labels, mask) for each, mask in zip(models, masks, strict=True)]
        # Adam minimises. The sum over images leaves each with the gradient that it would have alone.
        (change.grad,) = torch.autograd.grad(-sum(gains, start=images.new_zeros(())).sum() / len(models), change)
        optimizer.step()
        with torch.no_grad():
            change.clamp_(-options.eps, options.eps)
    return Result((images + change.detach() / 255).clamp(0, 1), options.eps / 255)


def shown_in(cosines: Tensor, labels: Tensor) -> Tensor:
    """The patches ``(n, patches)`` that show what the image shows, from the cosines of the clean image."""
    shown = _of(cosines, labels[:, 0])
    return shown > (shown.amax(dim=1, keepdim=True) + shown.amin(dim=1, keepdim=True)) / 2


def turned(cosines: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """What the attack raises, ``(n,)``: how much more masked patches are like what is wanted than what is shown."""
    return ((_of(cosines, labels[:, 1]) - _of(cosines, labels[:, 0])) * mask).mean(dim=1)


def _of(cosines: Tensor, places: Tensor) -> Tensor:
    """The cosines ``(n, patches)`` with one word for each image."""
    return cosines.gather(2, places[:, None, None].expand(-1, cosines.shape[1], 1)).squeeze(2)


def _cuts(least: float, steps: int, seeds: Sequence[int]) -> Tensor:
    """Height, width, middle row and column of a cut for each image and step, ``(n, steps, 4)``; the image is [-1,1]."""
    area, ratio, row, column = draw_each(seeds, lambda stream: torch.rand(steps, 4, generator=stream)).unbind(-1)
    area, stretch = least + (1 - least) * area, _LEAST_RATIO ** (2 * ratio - 1)
    height, width = ((area * by).sqrt().clamp(max=1) for by in (stretch, 1 / stretch))
    return torch.stack([height, width, (2 * row - 1) * (1 - height), (2 * column - 1) * (1 - width)], dim=-1)


def _cut(images: Tensor, cuts: Tensor) -> Tensor:
    """Each image cut to its own box and enlarged to its size."""
    height, width, row, column = cuts.unbind(-1)
    none = torch.zeros_like(row)
    boxes = torch.stack([torch.stack([width, none, column], -1), torch.stack([none, height, row], -1)], dim=1)
    grid = functional.affine_grid(boxes, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
