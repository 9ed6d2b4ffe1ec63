"""Caltech101 for the mini CLIP: 32x32 pixels, CoOp's split and few-shot lists, and classes that are called by number.

The mini CLIP knows no word for most of the classes, but it does know digits: class 27 is "number two seven" here. The
names say nothing about the images, so the accuracy without tuning is chance, as with random weights; what tuning adds
and what an attack takes away is measured on real photographs all the same.
"""

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from bench.datasets import caltech101
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import prompts
from bench.datasets.archives.source import ArchiveOptions, Contents, Opened, Source
from bench.datasets.digits import CLASS_NAMES as DIGITS
from bench.datasets.store import Description


class Options(ArchiveOptions):
    """As for all real datasets, at the mini CLIP's resolution and with CoOp's splits only."""

    size: int = Field(default=32, gt=0)
    splits: tuple[str, ...] = ("train", "val", "test")


def source(options: Options) -> Source:
    """The dataset as published."""
    published = caltech101.source(caltech101.Options())

    def read(opened: Opened) -> Contents:
        assert published.read is not None
        contents = published.read(opened)
        names = next(iter(contents.prompts.values())).class_names
        numbers = prompts(map(in_digits, range(len(names))), numbers="a photo of number {}.")
        return replace(contents, prompts={**numbers, **contents.prompts})

    del options
    return replace(published, read=read)


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def in_digits(number: int) -> str:
    """A number as its digits are spoken, such as "two seven"."""
    return " ".join(DIGITS[int(digit)] for digit in str(number))
