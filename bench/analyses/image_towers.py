"""What large vision-language models see with, and where they are published (R-Adapt, table 10).

Read from the suite and from the models' own descriptions; nothing is opened.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from pydantic import Field
from tabulate import tabulate

from bench.analyses.contract import Source
from bench.analyses.subjects.references import Reference, missing
from bench.config import Options as Closed
from bench.config import Suite
from bench.lvlm.architecture import Architecture, lvlm_architectures, read_architecture

_COLUMNS = ("Vision Encoder", "Huggingface ID", "weights here")
_ABSENT = "not implemented"


class CheckpointReference(Reference):
    """One of the suite's checkpoints.

    Attributes:
        checkpoint: Its id.
    """

    checkpoint: str

    def faults(self, suite: Suite, key: str) -> Iterator[str]:
        """The checkpoint."""
        yield from missing("checkpoint", [self.checkpoint], suite.checkpoints, f"{key}.checkpoint")


class Options(Closed):
    """What to show.

    Attributes:
        models: By the name of their row.
    """

    models: dict[str, CheckpointReference] = Field(min_length=1)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each ``model``, with what the table's columns say."""
    lines: list[dict[str, Any]] = []
    for name, reference in options.models.items():
        base = source.suite.checkpoints[reference.checkpoint].base
        known = base["architecture"] in lvlm_architectures()
        found = _described(read_architecture(base["architecture"]), base["weights"]) if known else (_ABSENT,) * 3
        lines.append({"model": name, **dict(zip(_COLUMNS, found, strict=True))})
    return pd.DataFrame(lines)


def table(frame: pd.DataFrame, options: Options) -> str:
    """In the paper's layout, with the weights that the suite uses."""
    del options
    body = [[line[column] for column in ("model", *_COLUMNS)] for line in frame.to_dict("records")]
    return tabulate(body, ["", *_COLUMNS], tablefmt="pipe", disable_numparse=True)


def _described(spec: Architecture, weights: str) -> tuple[str, str, str]:
    clip = spec.tower or spec.clip.get("architecture", "")
    encoder = f"CLIP {clip}" if clip else "ViT with DeepStack" if spec.family == "qwen3_vl" else "ViT"
    return encoder, spec.hub or "none: this project's own", weights
