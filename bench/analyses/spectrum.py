"""Which spatial frequencies a model looks at, and which a filter or an attack moves (R-Adapt, equation 4, figure 3 a).

Three kinds of maps, zero frequency in the middle. ``models``: the paper's spectral shift, the mean amplitude of the
patch embedding's kernels minus that of the standard model's, over input and output channels. ``filters``: what a
defense that edits pixels leaves of each frequency of the images, minus 1. ``attacks``: the same for adversarial images
made on the standard model. Beside each map stand the means over the lower and the upper half of the radii.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.subjects.attacking import attack_images, open_attack
from bench.analyses.subjects.models import Sample, load_models, open_sample
from bench.analyses.subjects.references import AttackReference, ImageReference, ModelReference
from bench.clip.defended import DefendedCLIP
from bench.clip.model import normalise
from bench.defenses.artefact import task_of
from bench.errors import UserError

_KERNEL, _IMAGES = "kernel", "images"
_BATCH = 256


class Options(ImageReference):
    """What to look at; images are needed for filters and attacks only.

    Attributes:
        standard: The model whose kernels the others' are compared with, and that attacks are made on.
        models: Models whose patch embedding differs, by the name of their panel.
        filters: Models that filter the image, by the name of their panel.
        attacks: By the name of their panel.
    """

    images: int | None = Field(default=200, gt=0)
    standard: ModelReference
    models: dict[str, ModelReference] = Field(default_factory=dict[str, ModelReference])
    filters: dict[str, ModelReference] = Field(default_factory=dict[str, ModelReference])
    attacks: dict[str, AttackReference] = Field(default_factory=dict[str, AttackReference])


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each ``panel`` and frequency: ``u`` and ``v`` in cycles per kernel or image, and its ``shift``."""
    if not (options.models or options.filters or options.attacks):
        raise UserError(f"{source.where}.options: nothing to show; name models, filters or attacks")
    return pd.concat([_lines(panel, kind, shift) for panel, kind, shift in _shifts(source, options)])


def _shifts(source: Source, options: Options) -> Iterator[tuple[str, str, Tensor]]:
    """Panel, kind and map of everything that the options name."""
    sample = open_sample(source, options)
    (standard,) = load_models(source, {"standard": options.standard}, options.dataset)
    own = standard.defended.staged.visual.conv1.weight
    for model in load_models(source, options.models, options.dataset):
        kernels = model.defended.staged.visual.conv1.weight
        if kernels.shape != own.shape:
            raise UserError(
                f"{source.where}: model '{model.name}' has kernels {tuple(kernels.shape)}, the standard model "
                f"{tuple(own.shape)}; name one of the same architecture"
            )
        yield model.name, _KERNEL, amplitudes(kernels) - amplitudes(own)
    for model in load_models(source, options.filters, options.dataset):
        yield model.name, _IMAGES, _gain(sample, _filtered(source, model.name, model.defended, sample)) - 1
    opened = standard.opened(task_of(sample.manifest, standard.template))
    for label, reference in options.attacks.items():
        attacker = open_attack(source, reference, f"options.attacks.{label}")
        yield label, _IMAGES, _gain(sample, attack_images(source, attacker, opened, opened, sample).split(_BATCH)) - 1


@torch.no_grad()
def amplitudes(planes: Tensor) -> Tensor:
    """Mean amplitude of each spatial frequency over all planes ``(..., h, w)``, zero frequency in the middle."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(planes.cpu().double()), dim=(-2, -1)).abs()
    return spectrum.flatten(end_dim=-3).mean(dim=0)


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """One map for each panel, red where there is more and blue where there is less."""
    del options
    panels = list(frame["panel"].unique())
    rows, columns = style.grid_of(len(panels), 3)
    picture = style.figure(0.4 + 2.7 * columns, 0.2 + 2.7 * rows)
    for axis, panel in zip(style.panels(picture, rows, columns, len(panels)), panels, strict=True):
        found = frame[frame["panel"] == panel]
        _draw_map(picture, axis, found.pivot(index="u", columns="v", values="shift"), str(found["kind"].iloc[0]))
        axis.set_title(f"{panel}\nlow {_half(found, low=True):+.3g}, high {_half(found, low=False):+.3g}")
    return picture


def _filtered(source: Source, name: str, model: DefendedCLIP, sample: Sample) -> Iterator[Tensor]:
    """What the model's edit of pixels makes of the images, in [0,1] as they came."""
    edit, clip = model.image_edits.pixels, model.staged.clip
    if edit is None:
        raise UserError(f"{source.where}.options.filters: '{name}' does not edit pixels; name a model with a filter")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (clip.mean, clip.std))
    for images in sample.batches():
        yield edit(normalise(clip, images.to(model.staged.device))).cpu() * std + mean


def _gain(sample: Sample, changed: Iterable[Tensor]) -> Tensor:
    """Mean amplitude of each frequency of the changed images over that of the images."""
    after, before = (sum(len(images) * amplitudes(images) for images in each) for each in (changed, sample.batches()))
    return torch.as_tensor(after) / torch.as_tensor(before)


def _lines(panel: str, kind: str, shift: Tensor) -> pd.DataFrame:
    height, width = shift.shape
    rows, columns = np.indices((height, width))
    return pd.DataFrame(
        {
            "panel": panel, "kind": kind, "u": (rows - height // 2).ravel(), "v": (columns - width // 2).ravel(),
            "shift": shift.flatten().numpy(),
        }
    )  # fmt: skip


def _half(found: pd.DataFrame, *, low: bool) -> float:
    """Mean shift over the lower or the upper half of the radii."""
    radii = np.hypot(found["u"], found["v"])
    inside = radii <= np.abs(found["u"]).max() / 2
    return float(found.loc[inside if low else ~inside, "shift"].mean())


def _draw_map(picture: Figure, axis: Axes, values: pd.DataFrame, kind: str) -> None:
    # A few frequencies that images hardly have are raised many times over, and would hide all others.
    largest = float(np.quantile(np.abs(values.to_numpy()), 0.98)) or 1.0
    rows, columns = values.index.to_numpy(float), values.columns.to_numpy(float)
    extent = (columns[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5, rows[0] - 0.5)
    drawn = axis.imshow(
        values, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest", extent=extent
    )  # fmt: skip
    axis.grid(visible=False)
    axis.set_xlabel(f"cycles per {'kernel' if kind == _KERNEL else 'image'}")
    picture.colorbar(drawn, ax=axis, shrink=0.75, extend="both")
