"""How far features and logits move under a perturbation, and how alike the images of a class are (RVPT, figure 1).

One panel for each model, with three distributions over the images: cosine of the features of the original and the
perturbed image, the same for the logits, and the mean cosine of an image's features with those of the others of its
class. The headings tell Perturbation Resistivity, and the success of the trigger that the model's checkpoint was
poisoned with, counted on the same images.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.formulas.similarity import Cosines, cosines, intra_class, resistivity
from bench.analyses.subjects.models import Features, Opened, Sample, open_models, open_sample
from bench.analyses.subjects.perturbations import Perturbation
from bench.analyses.subjects.references import ImageReference, ModelReference
from bench.evaluation.metrics import outcomes

_QUANTITIES = {
    "features": "features, original and perturbed",
    "logits": "logits, original and perturbed",
    "intra_class": "features, images of one class",
}


class Options(ImageReference):
    """The paper takes 5,000 images of ImageNet's validation split and a patch of noise, 16 x 16 pixels.

    Attributes:
        models: By the name of their panel.
        perturbation: What is done to the images.
        features: What phi is: the image embedding, or the class token after the last LayerNorm.
        bins: Bars between the least cosine and 1.
    """

    models: dict[str, ModelReference] = Field(min_length=1)
    perturbation: Perturbation
    features: Features = "embedding"
    bins: int = Field(default=40, gt=1)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each model and image; ``hit`` says whether the trigger calls up the target, where that counts."""
    sample = open_sample(source, options)
    changes = {"": options.perturbation.open(source)}
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "model": model.name,
                    "row": sample.rows,
                    "label": sample.labels,
                    **cosines(model, sample, changes, options.features)[""]._asdict(),
                    "intra_class": intra_class(model.features(sample, options.features), sample.labels),
                    "hit": _hits(model, sample),
                }
            )
            for model in open_models(source, options.models, sample)
        ]
    )


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """The distributions, one panel for each model."""
    models = list(frame["model"].unique())
    rows, columns = style.grid_of(len(models), 4)
    picture = style.figure(0.4 + 2.3 * columns, 0.6 + 2.4 * rows)
    lowest = float(np.nanmin(frame[list(_QUANTITIES)].to_numpy()))
    bins: list[float] = np.linspace(min(lowest, 0.99), 1, options.bins + 1).tolist()
    axes = style.panels(picture, rows, columns, len(models), sharex=True, sharey=True)
    for panel, model in zip(axes, models, strict=True):
        _draw_panel(panel, frame[frame["model"] == model], bins)
        panel.set_title(f"{model}\n{_told(frame[frame['model'] == model])}")
        panel.set_xlabel("cosine")
    for panel in axes[::columns]:
        panel.set_ylabel("images (%)")
    picture.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return picture


def _draw_panel(panel: Axes, images: pd.DataFrame, bins: list[float]) -> None:
    for (quantity, label), colour in zip(_QUANTITIES.items(), style.PALETTE, strict=False):
        values = images[quantity].dropna()
        weights = np.full(len(values), 100 / max(1, len(values)))
        panel.hist(values, bins, weights=weights, color=colour, alpha=0.45, label=label)
        panel.hist(values, bins, weights=weights, color=colour, histtype="step", linewidth=1.2)
    panel.grid(axis="x", visible=False)


def _told(images: pd.DataFrame) -> str:
    """PR and, where there is a trigger, ASR."""
    ratio = resistivity(Cosines(images["features"].to_numpy(), images["logits"].to_numpy()))["pr"].value
    hits = images["hit"].dropna()
    return f"PR {ratio:.3f}" + (f", ASR {100 * hits.mean():.1f} %" if len(hits) else "")


def _hits(model: Opened, sample: Sample) -> list[bool | None]:
    """Whether the checkpoint's own trigger calls up its target, for each image of another class."""
    trigger, target = model.checkpoint.trigger, model.target(sample)
    if trigger is None or target is None:
        return [None] * len(sample.rows)
    predicted = model.logits(sample, trigger.apply).argmax(dim=1)
    return outcomes("ASR", predicted.tolist(), sample.labels.tolist(), target)
