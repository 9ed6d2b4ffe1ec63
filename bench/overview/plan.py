"""What a suite would take where it has data, weights and an accelerator, and what of it is missing here."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
import yaml
from huggingface_hub.constants import HF_HUB_CACHE
from rich.console import Console
from rich.markup import escape

from bench.clip.robust import ROBUST
from bench.config import Suite
from bench.defenses.artefact import parts_of
from bench.lvlm.architecture import lvlm_architectures, read_architecture
from bench.lvlm.room import is_lvlm
from bench.overview.assumed import REFERENCE, Assumed, size_of
from bench.overview.cells import cell_states
from bench.overview.models import checkpoint_states, defense_states
from bench.overview.questions import kept_numbers
from bench.overview.reckon import Line, Reckoner
from bench.overview.work import Sizes
from bench.paths import Paths
from bench.planned import Absent
from bench.progress import console

_BYTES = 4
_REFERENCE = re.compile(r"\$\{(.+)\}")


class Plan(NamedTuple):
    """A suite in numbers, of what is left to do.

    Attributes:
        stages: Stages of its pipeline, those of the data not counted.
        cells: How many cells are in each state.
        images: Images to evaluate, each once for every cell that it is in; for large vision-language models, questions.
        forwards: Passes of attacks and evaluations without a gradient.
        gradients: Those with one.
        lines: Time, by group of stages; in seconds of the assumed accelerator.
        disk: Bytes, by what they are for.
        missing: What is not here.
        planned: What is not implemented, and how many cells need it.
        notes: What had to be assumed.
    """

    stages: int
    cells: Counter[str]
    images: int
    forwards: float
    gradients: float
    lines: list[Line]
    disk: dict[str, float]
    missing: list[str]
    planned: dict[str, int]
    notes: list[str]


def plan_suite(suite: Suite, paths: Paths, images_per_s: float, survivors: float) -> Plan:
    """Reckon what is left of a suite.

    Args:
        suite: The benchmark.
        paths: Where everything is; its pipeline is the ``dvc.yaml`` beside it.
        images_per_s: Assumed speed of ViT-B/32's forward pass.
        survivors: Share of the images taken to be robust after the first part of AutoAttack.

    Raises:
        UserError: An item or an option of it is unknown.
    """
    absent, there = Absent(suite), _taken_as_there(suite)
    reckoner, states = Reckoner(there, paths, Assumed(images_per_s), survivors), cell_states(suite, paths)
    left = [state for state in cell_states(there, paths) if not state.ended]
    work = [found for state in left if (found := reckoner.work_left(state))]
    lines = [*reckoner.checkpoints(), *reckoner.defenses(), *reckoner.attacks()]
    planned = Counter(item for state in states for item in absent.cell(state.track, state.cell))
    taken = set(suite.planned.get("architectures", ())) - set(there.planned.get("architectures", ()))
    reckoner.notes.extend(f"What needs '{name}' is reckoned, although it does not run yet." for name in sorted(taken))
    return Plan(
        stages=count_stages(paths.suite.with_name("dvc.yaml"), paths.suite),
        cells=Counter(state.state for state in states),
        images=sum(images for images, _ in work),
        forwards=sum(images * each.forwards for images, each in work),
        gradients=sum(images * each.gradients for images, each in work),
        lines=lines,
        disk=dict(_disk(there, paths)),
        missing=list(dict.fromkeys(_missing(there, paths))),
        planned=dict(planned),
        notes=list(dict.fromkeys(reckoner.notes)),
    )


def _taken_as_there(suite: Suite) -> Suite:
    """The suite without those planned architectures whose sizes are known."""
    left = [name for name in suite.planned.get("architectures", ()) if name not in lvlm_architectures()]
    return suite.model_copy(update={"planned": {**suite.planned, "architectures": left}})


def count_stages(pipeline: Path, suite: Path) -> int:
    """How many stages a pipeline has, with its loops over the suite's entries written out."""
    content = yaml.safe_load(suite.read_text("utf-8"))

    def length(values: Any) -> int:
        reference = _REFERENCE.fullmatch(values) if isinstance(values, str) else None
        found = content
        for key in reference[1].split(".") if reference else ():
            found = found[key]
        return len(found if reference else values)

    stages: dict[str, Any] = yaml.safe_load(pipeline.read_text("utf-8"))["stages"]
    return sum(
        length(stage["foreach"]) if "foreach" in stage else math.prod(map(length, stage.get("matrix", {}).values()))
        for stage in stages.values()
    )


def show_plan(plan: Plan, images_per_s: float, out: Console = console) -> None:
    """Print a plan."""

    def say(text: str) -> None:
        out.print(escape(text), highlight=False, soft_wrap=True)

    cells = ", ".join(f"{count:,} {state}" for state, count in plan.cells.items())
    say(f"stages  {plan.stages}")
    say(f"cells   {plan.cells.total():,} ({cells})")
    say(f"left    {plan.images:,} images to evaluate")
    say(f"passes  {plan.forwards:.3g} forward, {plan.gradients:.3g} with gradient")
    say(f"\nGPU hours, assuming {images_per_s:,.0f} images/s in the forward pass of {REFERENCE} (not measured):")
    for stage, group in groupby(plan.lines, lambda line: line.stage):
        say(f"  {stage:<28} {sum(line.seconds for line in group) / 3600:>9,.1f}")
    say(f"  {'all':<28} {sum(line.seconds for line in plan.lines) / 3600:>9,.1f}")
    say("\ndisk, GB:")
    for what, size in plan.disk.items():
        say(f"  {what:<28} {size / 1e9:>9,.1f}")
    say(f"  {'all':<28} {sum(plan.disk.values()) / 1e9:>9,.1f}")
    for heading, lines in (
        ("missing here", plan.missing),
        ("not implemented", [f"{item}: {count:,} cells" for item, count in plan.planned.items()]),
        ("assumed", plan.notes),
    ):
        say(f"\n{heading}:" if lines else f"\n{heading}: nothing")
        for line in lines:
            say(f"  {line}")


def _disk(suite: Suite, paths: Paths) -> Iterator[tuple[str, float]]:
    """What will be written, but for small files: prompts, heads, records."""
    sizes, absent = Sizes(suite, paths, []), Absent(suite)
    fetched = {name: sizes.stated(name) for name in suite.datasets if not _manifest(paths, name).exists()}
    yield "archives of data", sum(file.size or file.about for source in fetched.values() for file in source.files)
    side = {name: suite.datasets[name].get("size", 224) for name in fetched}
    decoded = {name: sum(source.counts.values()) or sizes.pairs(name) for name, source in fetched.items()}
    yield "decoded images", sum(3 * side[name] ** 2 * count for name, count in decoded.items())
    states = checkpoint_states(suite, paths)
    made = [name for name, state in states.items() if not state.ended and not absent.checkpoint(name)]
    # Planted ones are kept in the store too.
    kept = sum(_weights(suite, name) * (1 if suite.checkpoints[name].trigger == "none" else 2) for name in made)
    yield "checkpoints", kept
    tuned = 0.0
    for (track, defense, checkpoint), state in defense_states(suite, paths).items():
        if not state.ended:
            parts = parts_of(suite.tracks[track], defense, f"{paths.suite}: tracks.{track}.defenses.{defense}")
            whole = sum(part.module.TUNES_ON == "pairs" for part in parts)
            if not whole:
                continue
            tuned += 2 * whole * _weights(suite, checkpoint) * len(suite.protocol.seeds)
    yield "models tuned as a whole", tuned


def _missing(suite: Suite, paths: Paths) -> Iterator[str]:
    """Data, weights and the accelerator."""
    sizes, absent = Sizes(suite, paths, []), Absent(suite)
    for name in suite.datasets:
        if not _manifest(paths, name).exists():
            by_hand = [file.name for file in sizes.stated(name).files if not file.urls]
            how = f"a person must get {', '.join(by_hand)}" if by_hand else f"bench fetch {name}"
            yield f"data of {name}: {how}"
    bases = {tuple(spec.base.values()): None for name, spec in suite.checkpoints.items() if not absent.checkpoint(name)}
    bases |= {
        (str(spec.options["architecture"]), str(spec.options["weights"])): None
        for spec in suite.surrogates.values()
        if {"architecture", "weights"} <= spec.options.keys()
    }
    for architecture, weights in bases:
        if not _has_weights(architecture, weights, paths):
            yield f"weights {weights} of {architecture}: downloaded when they are first used"
    for track, plan in suite.tracks.items():
        for defense in plan.defenses:
            if not absent.defense(track, defense):
                for part in parts_of(plan, defense, f"{paths.suite}: tracks.{track}.defenses.{defense}"):
                    yield from part.module.wants(part.options) if hasattr(part.module, "wants") else ()
    if not torch.cuda.is_available():
        yield "an accelerator: none is found"


def _has_weights(architecture: str, weights: str, paths: Paths) -> bool:
    if weights in ("random", "shipped"):
        return True
    if weights.endswith(".safetensors"):
        return Path(weights).exists()
    if weights in ROBUST:
        return any((paths.data / "archives" / f"{weights}-clip").glob("*.safetensors"))
    if architecture in lvlm_architectures():
        return _cached(read_architecture(architecture).hub)
    published = open_clip.get_pretrained_cfg(architecture, weights)
    return _cached(str(published.get("hf_hub", "")))


def _cached(hub: str) -> bool:
    """Whether a repository of the hub is in its cache."""
    folder = hub.rstrip("/").replace("/", "--")
    return bool(folder) and any((Path(HF_HUB_CACHE) / f"models--{folder}").glob("snapshots/*/*"))


def _manifest(paths: Paths, dataset: str) -> Path:
    return paths.data / "manifests" / f"{dataset}.json"


def _weights(suite: Suite, checkpoint: str) -> float:
    if is_lvlm(suite.checkpoints[checkpoint]):
        return _BYTES * kept_numbers(suite.checkpoints[checkpoint])
    return _BYTES * size_of(suite.checkpoints[checkpoint].base["architecture"]).parameters
