"""Caltech101 for the mini CLIP: 32x32 pixels, CoOp's split and few-shot lists, and classes under borrowed names.

The mini CLIP knows no word for most of the classes, so each goes by something that it does know, such as "red heart":
the label mapping by which a model is reused for other classes (Elsayed et al., 2019; Bahng et al., 2022). The names say
nothing about the images. Without tuning the accuracy is therefore chance, as with random weights; what tuning adds and
what an attack takes away are measured on real photographs all the same.
"""

from dataclasses import replace
from itertools import islice, product
from pathlib import Path

from pydantic import Field

from bench.datasets import caltech101
from bench.datasets.archives.fetch import fetch_source
from bench.datasets.archives.lists import prompts
from bench.datasets.archives.source import ArchiveOptions, Contents, Opened, Source
from bench.datasets.store import Description
from bench.datasets.world import COLOURS, SHAPES


class Options(ArchiveOptions):
    """As for all real datasets, at the mini CLIP's resolution and with CoOp's splits only."""

    size: int = Field(default=32, gt=0)
    splits: tuple[str, ...] = ("train", "val", "test")


def source(options: Options) -> Source:
    """The dataset as published."""
    del options
    published = caltech101.source(caltech101.Options())

    def read(opened: Opened) -> Contents:
        assert published.read is not None
        contents = published.read(opened)
        names = next(iter(contents.prompts.values())).class_names
        borrowed = prompts(borrowed_names(len(names)), borrowed="a photo of a {}.")
        return replace(contents, prompts={**borrowed, **contents.prompts})

    return replace(published, read=read)


def fetch(options: Options, folder: Path) -> Description:
    """Write the splits into ``folder``."""
    return fetch_source(source(options), options, folder)


def borrowed_names(count: int) -> list[str]:
    """Names of so many things in the rendered world, all different."""
    things = product(("", "large "), SHAPES, COLOURS)
    return [f"{size}{colour} {shape}" for size, shape, colour in islice(things, count)]
