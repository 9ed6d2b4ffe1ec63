"""What in the image and in the class prompt supports the score of the true class (CBA-FAPT, figure 1a).

The maps are those that CBA-FAPT keeps in place while it tunes (``bench/defenses/cba_fapt.py``), here of any model: on
an image as it is, and after an attack on that model. The paper shows one image; here the cosine between the clean and
the attacked map is told for it and, as a mean, for all images of the sample. An image that was wrong from the start is
attacked too.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.analyses.contract import Source
from bench.analyses.drawing import style
from bench.analyses.drawing.pixels import from_pixel_lines, pixel_lines
from bench.analyses.subjects.models import Opened, Sample, open_models, open_sample
from bench.analyses.subjects.references import ImageReference, ModelReference, missing
from bench.attacks.checked import attack_in_parts
from bench.attacks.contract import Knowledge
from bench.clip.defended import Task
from bench.clip.staged import Trace
from bench.config import Suite
from bench.defenses import cba_fapt
from bench.defenses.artefact import task_of
from bench.errors import UserError
from bench.evaluation.adversary import load_attacker
from bench.randomness import sample_seeds

_VERSIONS = ("clean", "attacked")
_SHOWN_CLASSES = 2


class Options(ImageReference):
    """Which images, models and attack.

    Attributes:
        images: Over how many images the cosines are averaged.
        row: Which of these is shown, counted from 0.
        models: By the name of their column.
        attack: Id of a white-box attack of the suite; each model is attacked by itself.
    """

    images: int | None = Field(default=24, gt=0)
    row: int = Field(default=0, ge=0)
    models: dict[str, ModelReference] = Field(min_length=1)
    attack: str

    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """The dataset and the attack."""
        yield from super().faults(suite, key)
        white_box = [name for name, spec in suite.attacks.items() if spec.threat_model == "white_box"]
        yield from missing("white-box attack", [self.attack], white_box, f"{key}.attack")


def measure(source: Source, options: Options) -> pd.DataFrame:
    """Lines of four kinds for each model, by ``part``.

    ``image`` (pixels) and, with a ``weight``, ``patches``, ``words`` (with the ``word``) and ``classes`` (``word`` is
    the class, ``weight`` its probability) are of the image that is shown, in each ``version``. ``shift`` has for each
    ``row`` of the sample the cosines between its clean and its attacked maps.
    """
    sample = open_sample(source, options)
    if options.row >= len(sample.rows):
        raise UserError(f"{source.where}.options.row: {options.row} is beyond the {len(sample.rows)} images")
    frames = [_measure(source, model, sample, options) for model in open_models(source, options.models, sample)]
    return pd.concat(frames)


def attributions(model: Opened, task: Task, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Attribution of the score of each image's own class.

    Args:
        model: Any defended CLIP with a text tower.
        task: The classes.
        images: ``(n, 3, h, w)`` in [0,1].
        labels: ``(n,)``.

    Returns:
        Image maps ``(n, patches)``, text maps ``(n, positions)``, and which positions count.
    """
    staged, maps = model.defended.staged, cba_fapt.Options()
    labels = labels.to(staged.device)
    with torch.no_grad():
        seen, read = Trace(), Trace()
        model.defended.image(images, seen)
        texts = model.defended.texts(task, read)
    for trace in (seen, read):
        assert trace.last_attention is not None
        # Nothing here is tuned, so the graph for the score's gradient begins where it is taken.
        trace.last_attention.requires_grad_()
    visual, embedded = cba_fapt.image_maps(staged, seen, texts[labels], maps)
    textual, shown = cba_fapt.text_maps(staged, read, embedded, labels, maps)
    return visual.detach().cpu(), (textual.detach() * shown).cpu(), shown.cpu()


def words_of(model: Opened, task: Task, label: int) -> list[str]:
    """The word at each position of a class's prompt; learned vectors are numbered."""
    clip, context = model.defended.staged.clip, model.defended.text_edits.context
    tokenizer: Any = clip.tokenize
    ids = tokenizer([model.defended.prompts(task)[label]])[0].tolist()
    learned = 0 if context is None else context.shape[-2]
    return [f"v{place}" if 1 <= place <= learned else tokenizer.decode([id_]) for place, id_ in enumerate(ids)]


def draw(frame: pd.DataFrame, options: Options) -> Figure:
    """For each version the image under its map, and the prompt coloured by its own; one column for each model."""
    models = list(options.models)
    picture = style.figure(0.3 + 2.5 * len(models), 6.4)
    axes = picture.subplots(4, len(models), squeeze=False, height_ratios=[1, 0.16, 1, 0.16])
    for column, model in enumerate(models):
        found = frame[frame["model"].str.removesuffix(" (attack failed)") == model]
        told = found[found["part"] == "shift"].iloc[options.row]
        for place, version in enumerate(_VERSIONS):
            shown = found[found["version"] == version]
            upper, lower = axes[2 * place, column], axes[2 * place + 1, column]
            _draw_image(upper, shown, _largest(found, "patches"))
            upper.set_title(f"{model}, {version}")
            _draw_words(lower, shown[shown["part"] == "words"], _largest(found, "words"))
            if version == "attacked":
                means = found[["image_cosine", "text_cosine"]].mean()
                upper.set_ylabel(f"cosine to clean {told['image_cosine']:.2f}\nmean {means['image_cosine']:.2f}")
                lower.set_xlabel(f"cosine to clean {told['text_cosine']:.2f}, mean {means['text_cosine']:.2f}")
    picture.supxlabel("red supports the true class, blue speaks against it", fontsize=8.5)
    return picture


def _measure(source: Source, model: Opened, sample: Sample, options: Options) -> pd.DataFrame:
    task = task_of(sample.manifest)
    images = sample.split.batch(sample.rows)
    versions = dict(zip(_VERSIONS, (images, _attacked(source, model, sample, options, images)), strict=True))
    maps = {name: attributions(model, task, shown, sample.labels) for name, shown in versions.items()}
    frames = [
        _shown(model, task, version, versions[version][options.row], sample.labels[options.row], *(
            part[options.row] for part in maps[version]
        ))
        for version in _VERSIONS
    ]  # fmt: skip
    clean, attacked = (maps[version] for version in _VERSIONS)
    shift = pd.DataFrame(
        {
            "part": "shift",
            "row": sample.rows,
            "image_cosine": functional.cosine_similarity(clean[0], attacked[0], dim=-1),
            "text_cosine": functional.cosine_similarity(clean[1], attacked[1], dim=-1),
        }
    )
    whole = pd.concat([*frames, shift])
    whole.insert(0, "model", model.name)
    return whole


def _attacked(source: Source, model: Opened, sample: Sample, options: Options, images: Tensor) -> Tensor:
    attacker = load_attacker(source.suite, options.attack, source.paths)
    return attack_in_parts(
        attacker.module,
        model.classifier,
        images,
        sample.labels,
        options=attacker.options,
        seeds=sample_seeds(sample.seed, sample.rows),
        knowledge=Knowledge(),
    ).images


@torch.no_grad()
def _shown(
    model: Opened,
    task: Task,
    version: str,
    image: Tensor,
    label: Tensor,
    visual: Tensor,
    textual: Tensor,
    shown: Tensor,
) -> pd.DataFrame:
    """All lines of one image in one version."""
    pixels = [{"part": "image", "place": y, "pixels": line} for y, line in enumerate(pixel_lines(image))]
    patches = [{"part": "patches", "place": place, "weight": weight} for place, weight in enumerate(visual.tolist())]
    written = zip(words_of(model, task, int(label)), textual.tolist(), shown.tolist(), strict=True)
    words = [
        {"part": "words", "place": place, "word": word, "weight": weight}
        for place, (word, weight, counts) in enumerate(written)
        if counts
    ]
    probabilities = model.classifier(image[None]).softmax(dim=-1)[0]
    classes = [
        {"part": "classes", "place": place, "word": task.class_names[class_], "weight": probabilities[class_].item()}
        for place, class_ in enumerate(probabilities.argsort(descending=True)[:_SHOWN_CLASSES].tolist())
    ]
    frame = pd.DataFrame([*pixels, *patches, *words, *classes])
    frame.insert(0, "version", version)
    return frame


def _draw_image(panel: Axes, shown: pd.DataFrame, largest: float) -> None:
    """The image in pale grey under its map: red supports the true class, blue speaks against it."""
    image: npt.NDArray[np.uint8] = from_pixel_lines(shown.loc[shown["part"] == "image", "pixels"])
    weights = shown.loc[shown["part"] == "patches", "weight"].to_numpy()
    side, (height, width) = round(len(weights) ** 0.5), image.shape[:2]
    style.show(panel, image.mean(axis=2), cmap="gray", vmin=-120, vmax=255)
    panel.imshow(
        weights.reshape(side, side), cmap="RdBu_r", vmin=-largest, vmax=largest, alpha=0.55, interpolation="bilinear",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )  # fmt: skip
    classes = shown[shown["part"] == "classes"]
    told = [f"{word} {100 * weight:.0f} %" for word, weight in zip(classes["word"], classes["weight"], strict=True)]
    panel.set_xlabel(", ".join(told))


def _draw_words(panel: Axes, words: pd.DataFrame, largest: float) -> None:
    style.show(panel, words["weight"].to_numpy()[None], cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
    for place, (word, weight) in enumerate(zip(words["word"], words["weight"], strict=True)):
        ink = "white" if abs(weight) > 0.6 * largest else style.INK
        panel.text(place, 0, word, ha="center", va="center", size=6.5, color=ink)


def _largest(found: pd.DataFrame, part: str) -> float:
    """One scale for both versions of a map."""
    return float(found.loc[found["part"] == part, "weight"].abs().max())
