"""Image-to-text retrieval, clean and under attack: recall@k (R-Adapt, table 4).

The gallery is every different sentence of the split, each image's first five captions. An image is a hit at k if one
of its own captions is among the k sentences nearest to it by cosine; a sentence that several images share is an own
caption of each of them, and a sentence that merely fits the image is not. Ties count against the model.

Every image is attacked, under the threat model that the suite gives to the attack. The paper does not say which one
its numbers are from, so all stand beside each other, and with them the worst known: images that no attack of the
condition has moved away.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from pydantic import Field
from tabulate import tabulate
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.subjects.attacking import attack_images, open_attack, threat_model
from bench.analyses.subjects.captions import gallery_of, ranks
from bench.analyses.subjects.models import Loaded, Opened, Sample, load_models
from bench.analyses.subjects.references import AttackReference, ImageReference, ModelReference
from bench.clip.classifier import Classifier
from bench.clip.defended import DefendedCLIP, Task
from bench.clip.small import small_architectures
from bench.datasets.store import open_split, read_manifest
from bench.errors import UserError
from bench.evaluation.metrics import Count, wilson
from bench.leaderboard.join import published_lines

_BATCH = 256
_WORST, _PUBLISHED = "worst known", "published"


class Options(ImageReference):
    """What to look for, and under which conditions.

    Attributes:
        images: How many of the split's first images look for their captions; the gallery is always the whole split's.
        captions_per_image: The first so many captions of each image.
        models: By the name of their row.
        conditions: Attacks by the heading that they share, such as the same radius under two threat models.
        ranks: The k of recall@k.
        published: The paper's table with the same rows and headings, as ``r_adapt/table_4``; empty for none.
    """

    captions_per_image: int = Field(default=5, gt=0)
    models: dict[str, ModelReference] = Field(min_length=1)
    conditions: dict[str, tuple[AttackReference, ...]] = Field(min_length=1)
    ranks: tuple[int, ...] = Field(default=(1, 5, 10), min_length=1)
    published: str = Field(default="", pattern=r"^$|^[a-z0-9_]+/[a-z0-9_]+$")


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each model, condition, k and ``view``: a threat model, the worst known, or published."""
    published = _published(source, options)
    sample, sentences = _open(source, options)
    attacks = {
        heading: [open_attack(source, one, f"options.conditions.{heading}.{place}") for place, one in enumerate(given)]
        for heading, given in options.conditions.items()
    }
    lines = list[dict[str, Any]]()
    for loaded in load_models(source, options.models, sample.manifest.dataset):
        model = _open_model(loaded, loaded.defended, sentences, source.where)
        undefended = _open_model(loaded, loaded.undefended, sentences, source.where)
        for heading, attackers in attacks.items():
            found = dict[str, Tensor]()
            for attacker in attackers:
                view = threat_model(source, attacker)
                reached = _ranks(model, attack_images(source, attacker, model, undefended, sample), sample)
                found[view] = torch.maximum(found[view], reached) if view in found else reached
            if len(attackers) > 1:
                found[_WORST] = torch.stack(list(found.values())).amax(dim=0)
            lines += [line for view, rank in found.items() for line in _lines(model.name, heading, view, rank, options)]
    return pd.concat([pd.DataFrame(lines), published]) if len(published) else pd.DataFrame(lines)


def table(frame: pd.DataFrame, options: Options) -> str:
    """Models in rows, one line for each view; conditions and k in columns, as in the paper."""
    columns = [(heading, k) for heading in options.conditions for k in options.ranks]
    found = {(line["model"], line["view"], line["condition"], line["k"]): line for line in frame.to_dict("records")}
    body = list[list[str]]()
    for model in frame["model"].unique():
        seen = list(frame.loc[frame["model"] == model, "view"].unique())
        for view in [view for view in seen if view != "none"] or seen:
            # Without an attack there is no threat model, and the number stands in every line.
            also = view if view == _PUBLISHED else "none"
            own = [found.get((model, view, *column), found.get((model, also, *column))) for column in columns]
            body.append([model, view.replace("_", " "), *map(_written, own)])
    header = ["model", "threat model", *(f"{heading} R@{k}" for heading, k in columns)]
    sides = ["left", "left", *["right"] * len(columns)]
    text = tabulate(body, header, tablefmt="pipe", disable_numparse=True, colalign=sides)
    count = int(frame["n"].max())
    return (
        f"{text}\n\nPercent of {count} images that find one of their own {options.captions_per_image} captions among "
        "the k nearest sentences of the split, with 95 % intervals (Wilson). Worst known: no attack of the condition "
        "moved the image away from its captions."
    )


def _open(source: Source, options: Options) -> tuple[Sample, list[str]]:
    """The images, with the places of their own captions as labels, and all sentences."""
    manifest = read_manifest(source.paths.data, options.dataset)
    split = open_split(source.paths.data, manifest, options.split)
    where = f"{source.where}.options.dataset: split '{options.split}' of '{options.dataset}'"
    sentences, own = gallery_of(split, options.captions_per_image, where)
    rows = list(range(len(own)))[: options.images]
    return Sample(manifest, split, rows, own[rows], options.seed), sentences


@torch.no_grad()
def _open_model(loaded: Loaded, defended: DefendedCLIP, sentences: list[str], where: str) -> Opened:
    """The model as a classifier whose classes are the sentences."""
    if defended.head is not None:
        raise UserError(f"{where}: model '{loaded.name}' ends in a linear head and reads no captions; leave it out")
    # Some at a time, for a gallery of thousands would not fit into memory at once.
    chunks = [tuple(sentences[start : start + _BATCH]) for start in range(0, len(sentences), _BATCH)]
    texts = torch.cat([defended.texts(Task(chunk, "{}")) for chunk in chunks])
    parts = [defended.staged.clip.model]
    classifier = Classifier(lambda images: defended.logits(images, texts), len(sentences), parts)
    return Opened(loaded.name, defended, classifier, loaded.checkpoint)


@torch.no_grad()
def _ranks(model: Opened, images: Tensor, sample: Sample) -> Tensor:
    similarities = torch.cat([model.classifier(batch).cpu() for batch in images.split(_BATCH)])
    return ranks(similarities, sample.labels)


def _lines(model: str, heading: str, view: str, rank: Tensor, options: Options) -> Iterator[dict[str, Any]]:
    for k in options.ranks:
        counted = Count(int((rank < k).sum()), len(rank))
        low, high = wilson(counted)
        yield {
            "model": model, "condition": heading, "view": view, "k": k, "n": counted.total, "hits": counted.hits,
            "value": counted.percent, "low": low, "high": high,
        }  # fmt: skip


def _published(source: Source, options: Options) -> pd.DataFrame:
    """The paper's numbers of the same rows and headings, as lines of the frame."""
    lines = list[dict[str, Any]]()
    if not options.published:
        return pd.DataFrame(lines)
    for name, model in options.models.items():
        if source.suite.checkpoints[model.checkpoint].base["architecture"] in small_architectures():
            raise UserError(
                f"{source.where}.options.published: model '{name}' is a mini model, whose numbers are never set beside "
                "published ones; leave this key out"
            )
    found = published_lines(source.paths, options.published, f"{source.where}.options.published")
    for line in found.to_dict("records"):
        heading, _, metric = str(line["column"]).rpartition(" R@")
        if line["row"] in options.models and heading in options.conditions:
            lines.append(
                {
                    "model": line["row"],
                    "condition": heading,
                    "view": _PUBLISHED,
                    "k": int(metric),
                    "value": line["value"],
                }
            )
    return pd.DataFrame(lines)


def _written(line: Mapping[Any, Any] | None) -> str:
    if line is None:
        return "-"
    value = f"{line['value']:.1f}"
    return value if pd.isna(line["low"]) else f"{value} [{line['low']:.1f}, {line['high']:.1f}]"
