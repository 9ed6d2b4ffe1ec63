"""What a defense costs: training time, memory, tuned parameters and training samples (RVPT: supplement, table 7).

Read from the cards of the artefacts. Memory is the most that the process had by the end of the training: on an
accelerator that of its tensors, on the processor all of it, Python and libraries included.
"""

from datetime import timedelta

import pandas as pd
from pydantic import Field
from tabulate import tabulate

from bench.analyses.contract import Source
from bench.analyses.subjects.models import read_card
from bench.analyses.subjects.references import ModelReference
from bench.config import Options as Closed


class Options(Closed):
    """What to compare.

    Attributes:
        models: By the name of their row; tuned for their track's first dataset where they name none.
    """

    models: dict[str, ModelReference] = Field(min_length=1)


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each model."""
    tracks = source.suite.tracks
    cards = {name: read_card(source, model, tracks[model.track].datasets[0]) for name, model in options.models.items()}
    return pd.DataFrame(
        [
            {
                "model": name,
                "state": card.state,
                "wall_s": card.wall_s,
                "peak_memory_mb": card.peak_memory_mb,
                "tuned_parameters": card.tuned_parameters,
                "training_samples": card.training_samples,
                "device": card.provenance.device,
            }
            for name, card in cards.items()
        ]
    )


def table(frame: pd.DataFrame, options: Options) -> str:
    """In the paper's layout."""
    del options
    header = ["model", "training time", "memory (MB)", "tuned parameters", "training samples"]
    lines = [
        [
            line["model"],
            _time(line["wall_s"]) if line["state"] == "done" else line["state"],
            f"{line['peak_memory_mb']:,.0f}",
            f"{line['tuned_parameters']:,}",
            f"{line['training_samples']:,}",
        ]
        for line in frame.to_dict("records")
    ]
    body = tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=["left", *["right"] * 4])
    return f"{body}\n\nTime is h:mm:ss. Trained on: {', '.join(frame['device'].unique())}."


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
