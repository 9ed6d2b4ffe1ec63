"""The papers whose tables are transcribed, the head of their CSVs, and how their READMEs are read."""

from functools import cache
from pathlib import Path

import pandas as pd

from bench.leaderboard.published import read_published

HEADER = "table,row,column,architecture,checkpoint,dataset,defense,attack,eps,metric,setting,value,note"
PAPERS = ("rvpt", "nap_tuning", "cba_fapt", "r_adapt", "cleansight")
_BOARDS = Path(__file__).parents[2] / "leaderboards"


def folder(paper: str) -> Path:
    return _BOARDS / paper / "published"


@cache
def published(paper: str) -> pd.DataFrame:
    return read_published(folder(paper))


def section(paper: str, title: str) -> list[list[str]]:
    """The cells of the table below a heading of a paper's README, without its head; empty if there is none."""
    text = (folder(paper) / "README.md").read_text("utf-8")
    body = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
