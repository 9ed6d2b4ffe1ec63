"""What a suite was measured on: how many images each split of its datasets has, and where they are from.

Read from the manifests, so that a table says on how much data its numbers stand, whichever copy was fetched.
"""

import pandas as pd
from tabulate import tabulate

from bench.analyses.contract import Source
from bench.config import Options as Closed
from bench.datasets.store import read_manifest


class Options(Closed):
    """No choices: all datasets of the suite."""


def measure(source: Source, options: Options) -> pd.DataFrame:
    """One line for each split; ``fewest`` and ``most`` are the images of its smallest and largest class."""
    del options
    lines = list[dict[str, object]]()
    for name in source.suite.datasets:
        manifest = read_manifest(source.paths.data, name)
        for split, entry in sorted(manifest.splits.items()):
            lines.append(
                {
                    "dataset": name,
                    "split": split,
                    "images": entry.count,
                    "classes": len(entry.per_class),
                    "fewest": min(entry.per_class, default=0),
                    "most": max(entry.per_class, default=0),
                    "source": manifest.description.source,
                    "licence": manifest.description.licence,
                }
            )
    return pd.DataFrame(lines)


def table(frame: pd.DataFrame, options: Options) -> str:
    """Sizes, and below them sources and licences."""
    del options
    lines = [
        [
            line["dataset"],
            line["split"],
            f"{line['images']:,}",
            f"{line['classes']:,}" if line["classes"] else "-",
            f"{line['fewest']:,} to {line['most']:,}" if line["classes"] else "-",
        ]
        for line in frame.to_dict("records")
    ]
    header = ["dataset", "split", "images", "classes", "images per class"]
    sides = ["left", "left", "right", "right", "right"]
    body = tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=sides)
    told = frame.drop_duplicates("dataset")[["dataset", "source", "licence"]].to_dict("records")
    notes = [f"- {line['dataset']}: from {line['source']}; licence: {line['licence']}." for line in told]
    return "\n".join([body, "", *notes])
