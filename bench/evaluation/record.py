"""The result of one cell: one typed, versioned schema; unknown keys are forbidden."""

from typing import Any, Literal

from pydantic import Field

from bench.config import Metric, Options, Protocol, ThreatModel
from bench.provenance import Provenance

RECORD_VERSION = 2
State = Literal["done", "failed", "diverged", "timeout", "attack_failed", "not_applicable", "missing"]


class Cell(Options):
    """What one number is about.

    Attributes:
        checkpoint: Which model.
        defense: What defends it.
        dataset: Which images.
        split: Which part of them.
        attack: What is done to them.
        threat_model: What the attacker may use.
        seed: Seed of the defense's training.
        limit: Upper bound on the number of images from ``--limit``; such records are never put into tables.
    """

    checkpoint: str
    defense: str
    dataset: str
    split: str
    attack: str
    threat_model: ThreatModel
    seed: int
    limit: int | None = None

    @property
    def name(self) -> str:
        """Short name, for file names and messages."""
        return f"{self.checkpoint}.{self.dataset}.{self.split}.seed{self.seed}"


class Identity(Options):
    """All that a result depends on; its hash is the cell's key.

    Attributes:
        cell: Which number.
        checkpoint: Hash of weights and trigger.
        artefact: Hash of the defense's tensors and of the source and options that load them.
        manifest: Hash of the dataset's manifest.
        attack: Hash of the attack's file.
        attack_options: The attack's options, defaults filled in.
        surrogates: Hash of each model that a transfer attack was made on.
        images: Size of the sample.
        protocol: The suite's protocol.
        dtype: Number format of the evaluation.
        version: Version of the record's schema.
    """

    cell: Cell
    checkpoint: str
    artefact: str
    manifest: str
    attack: str
    attack_options: dict[str, Any]
    surrogates: dict[str, str] = Field(default_factory=dict[str, str])
    images: int | None
    protocol: Protocol
    dtype: str = "float32"
    version: int = RECORD_VERSION


class Cost(Options):
    """What the evaluation took; per image that was attacked.

    Attributes:
        wall_s: Seconds, over all sessions that worked on the cell.
        images_per_s: Images attacked per second.
        peak_memory_mb: Largest memory of the process or, on an accelerator, of its allocations.
        forwards: Forward passes per image.
        backwards: Backward passes per image.
    """

    wall_s: float
    images_per_s: float
    peak_memory_mb: float
    forwards: float
    backwards: float


def _is_empty(value: object) -> bool:
    return not value


class Outcome(Options):
    """What happened to each image (or question) of the sample, in the order of ``rows``.

    ``distances`` says how unlike clean ones a defense that looks for attacks found them.
    """

    rows: tuple[int, ...]
    labels: tuple[int, ...]
    predictions: tuple[int, ...]
    target: int | None
    distances: tuple[float, ...] = Field(default=(), exclude_if=_is_empty)


class Record(Options):
    """One cell's result.

    Attributes:
        identity: What it depends on.
        metric: CA, ASR or RA; CU in the place of CA for large vision-language models.
        state: ``done``, or why there is no number.
        reason: For people; empty when done.
        n: Images that the metric counts.
        hits: How many of them were hit.
        value: Percent; None without a number.
        low: Lower end of the 95 % interval, percent.
        high: Upper end of the 95 % interval, percent.
        variants: For ASR, its values in percent by other projects' rules (``bench.evaluation.metrics``); for large
            vision-language models ``alarms``, how many attacks a defense that looks for them saw, ``right_beside``,
            how many answers are right without the attacker's phrase, ``vqa``, the mean of VQA's own score where ten
            people answered each question, and ``wanted``, how many name the object that an attack wants to be seen.
        poisoned: Training pairs of the checkpoint that carry its trigger.
        poison_rate: These over all its training pairs.
        flags: Warnings about the evaluation.
        tuned_parameters: Numbers that the defense tuned.
        outcome: Per-sample outcomes.
        cost: Time and memory.
        provenance: Where it was computed.
    """

    identity: Identity
    metric: Metric
    state: State
    reason: str = ""
    n: int = 0
    hits: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    variants: dict[str, float] = Field(default_factory=dict)
    poisoned: int = 0
    poison_rate: float = 0.0
    flags: tuple[str, ...] = ()
    tuned_parameters: int = 0
    outcome: Outcome | None = None
    cost: Cost | None = None
    provenance: Provenance
