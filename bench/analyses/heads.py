"""What each head of the first attention does for robustness: its Shapley value (R-Adapt, figure 11).

A coalition of heads is the robust model with the standard model's heads, behind their own LayerNorm, in the place of
all others in its first block. With no head it is the mixture that has the standard ``B1-Attn``, with all of them the
robust model. The worth of a coalition is its accuracy on fixed adversarial images. A head's Shapley value is what it
adds to the worth, averaged over orders in which the heads may join; the values sum to what all heads add together. The
paper names neither the attacked model nor the number of orders, nor what takes the place of a head that is left out.
"""

from collections.abc import Collection, Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.drawing.pixels import from_pixel_lines, pixel_lines
from bench.analyses.formulas.shapley import Coalition, Floats, orders_of, prefixes, shapley
from bench.analyses.subjects.attacking import attack_images, open_attack
from bench.analyses.subjects.models import load_models, open_sample
from bench.analyses.subjects.references import AttackReference, ImageReference, ModelReference
from bench.analyses.subjects.towers import check_towers
from bench.clip.classifier import scaled_cosine
from bench.clip.staged import ImageEdits, StagedCLIP
from bench.defenses.artefact import task_of
from bench.progress import track

_BATCH = 64


class Options(ImageReference):
    """Which heads, and on which images.

    Attributes:
        images: How many.
        standard: The model that gives the heads of those left out.
        robust: The model whose heads are weighed.
        attack: What makes the images adversarial: on the robust model, or under ``grey_box`` on the standard one.
        orders: How many random orders; with six heads or fewer, every order is tried instead.
        shown: Place of the image in its split whose attention maps are drawn.
    """

    images: int | None = Field(default=200, gt=0)
    standard: ModelReference
    robust: ModelReference
    attack: AttackReference
    orders: int = Field(default=50, gt=1)
    shown: int = Field(default=0, ge=0)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each head, for the two ends, and for each weight and each line of pixels of the image shown.

    ``part`` is ``head``, with its ``value`` and ``error`` in points of accuracy; ``none`` or ``all``, the accuracy in
    percent with so many heads; ``map``, with the weight of the patch at ``place`` for a head's class token as
    ``value``; or ``image``.
    """
    sample = open_sample(source, options)
    (standard,) = load_models(source, {"standard": options.standard}, options.dataset)
    (robust,) = load_models(source, {"robust": options.robust}, options.dataset)
    check_towers(source, standard.defended, robust.defended, robust.name)
    task, attacker = task_of(sample.manifest, robust.template), open_attack(source, options.attack, "options.attack")
    attacked = attack_images(source, attacker, robust.opened(task), standard.opened(task), sample)
    first, second = robust.defended.staged, standard.defended.staged
    with torch.no_grad():
        texts = robust.defended.texts(task)
    orders = orders_of(heads_of(first), options.orders, options.seed)
    coalitions = {coalition for order in orders for coalition in prefixes(order)}
    worth = worths(first, second, coalitions, attacked, sample.labels, texts)
    told = shapley(orders, worth)
    lines: list[dict[str, Any]] = [
        {"part": "head", "head": head, "value": value, "error": error}
        for head, (value, error) in enumerate(zip(told.values, told.errors, strict=True), start=1)
    ]
    ends = prefixes(orders[0])
    lines += [{"part": name, "value": worth[ends[place]].mean()} for name, place in (("none", 0), ("all", -1))]
    shown = next(sample.only(options.shown, f"{source.where}.options.shown").batches())
    return pd.DataFrame([*lines, *_shown(first, shown)])


def heads_of(staged: StagedCLIP) -> int:
    """Number of heads of the first block."""
    count: int = staged.image_blocks[0].attn.num_heads
    return count


@torch.no_grad()
def worths(
    robust: StagedCLIP,
    standard: StagedCLIP,
    coalitions: Collection[Coalition],
    images: Tensor,
    labels: Tensor,
    texts: Tensor,
) -> dict[Coalition, Floats]:
    """For each coalition of the robust model's first heads, 100 for every image that it gets right and 0 for others.

    Args:
        robust: Gives everything but the heads that are left out.
        standard: Gives those.
        coalitions: Heads that are kept, counted from 0.
        images: ``(n, 3, h, w)`` in [0,1].
        labels: Their classes.
        texts: Normalised class embeddings ``(classes, d)``.
    """
    found: dict[Coalition, list[Tensor]] = {coalition: [] for coalition in coalitions}
    chunks = list(zip(images.split(_BATCH), labels.split(_BATCH), strict=True))
    for batch, right in track(chunks, "coalitions"):
        tokens = robust.image_tokens(batch)
        kept, others = (head_outputs(model, tokens) for model in (robust, standard))
        for coalition in coalitions:
            embedded = robust.image_from(tokens, 1, _with_heads(kept, others, coalition))
            found[coalition].append(scaled_cosine(robust, embedded, texts).argmax(dim=1).cpu() == right)
    return {coalition: 100 * torch.cat(hits).double().numpy() for coalition, hits in found.items()}


def head_outputs(staged: StagedCLIP, tokens: Tensor) -> Tensor:
    """What each head of the first attention adds to ``tokens``: ``(heads, n, tokens, width)``, in sum all of it."""
    block = staged.image_blocks[0]
    values = staged.query_key_value(block, tokens).value.unflatten(-1, (heads_of(staged), -1)).transpose(1, 2)
    mixed = staged.attention_weights(block, tokens) @ values
    out: Any = block.attn.out_proj
    parts = out.weight.unflatten(1, (heads_of(staged), -1))
    return torch.einsum("nhtk,whk->hntw", mixed, parts) + out.bias / heads_of(staged)


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """The values as bars with 95 % intervals, and what the class token of the best and of the worst head looks at."""
    found = frame[frame["part"] == "head"].sort_values("value", ascending=False)
    none, everything = (float(frame.loc[frame["part"] == part, "value"].iloc[0]) for part in ("none", "all"))
    picture = style.figure(8.6, 2.7)
    bars, *maps = picture.subplots(1, 4, width_ratios=[2.2, 1, 1, 1])
    names = [f"{head:.0f}" for head in found["head"]]
    shades = [style.PALETTE[0] if value >= 0 else style.PALETTE[1] for value in found["value"]]
    bars.bar(names, found["value"], color=shades, yerr=1.96 * found["error"], ecolor=style.INK, capsize=2)
    bars.axhline(0, color=style.INK, linewidth=0.8)
    bars.grid(axis="x", visible=False)
    bars.set_title(f"accuracy {none:.1f} % with no head, {everything:.1f} % with all")
    bars.set_xlabel("head of the first block")
    bars.set_ylabel(f"Shapley value under\n{options.attack.attack} (points)")
    image = from_pixel_lines(frame.loc[frame["part"] == "image", "pixels"])
    style.show(maps[0], image)
    maps[0].set_title("image")
    weights = frame[frame["part"] == "map"]
    for axis, word, head in zip(
        maps[1:], ("best", "worst"), (found["head"].iloc[0], found["head"].iloc[-1]), strict=True
    ):
        _draw_map(axis, weights[weights["head"] == head], float(weights["value"].max()))
        axis.set_title(f"{word}: head {head:.0f}")
    return picture


def _with_heads(kept: Tensor, others: Tensor, coalition: Coalition) -> ImageEdits:
    """The first attention's output with the heads of ``coalition`` from ``kept`` and all else from ``others``."""
    inside = torch.tensor([head in coalition for head in range(len(kept))], device=kept.device).view(-1, 1, 1, 1)
    attended = torch.where(inside, kept, others).sum(dim=0)
    return ImageEdits(attention={1: lambda _: attended})


@torch.no_grad()
def _shown(staged: StagedCLIP, image: Tensor) -> Iterator[dict[str, Any]]:
    """The image, and the weights of its patches for the class token of every head."""
    for place, line in enumerate(pixel_lines(image[0])):
        yield {"part": "image", "place": place, "pixels": line}
    weights = staged.attention_weights(staged.image_blocks[0], staged.image_tokens(image))[0, :, 0, 1:]
    for head, row in enumerate(weights.tolist(), start=1):
        for place, weight in enumerate(row):
            yield {"part": "map", "head": head, "place": place, "value": weight}


def _draw_map(axis: Axes, found: pd.DataFrame, largest: float) -> None:
    side = round(len(found) ** 0.5)
    style.show(axis, found["value"].to_numpy().reshape(side, side), cmap="YlOrRd", vmin=0, vmax=largest)
