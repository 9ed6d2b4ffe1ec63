"""What there is to choose from."""

import sys
from typing import Literal

import pytest
from pydantic import Field
from rich.console import Console

from bench.config import Options, Suite
from bench.errors import UserError
from bench.items import item_ids
from bench.overview.listing import KINDS, describe_item, first_sentence, kinds_of, list_items, option_meanings


class Parent(Options):
    """How to do it.

    Attributes:
        first: One thing.
        second: Another thing, which takes
            two lines to say.
    """

    first: int = Field(gt=0)
    second: Literal["a", "b"] = "a"


class Child(Parent):
    """The paper's way.

    Attributes:
        first: Another meaning.
    """

    third: float = 0.5


def test_every_item_is_listed_with_a_sentence_and_whether_it_is_used(suite: Suite, page: Console) -> None:
    list_items(suite, page)
    lines = [line.split() for line in page.file.getvalue().splitlines() if line.startswith(" ")]
    rows = {line[0]: line for line in lines}
    assert {name for kind in KINDS for name in item_ids(kind)} <= rows.keys()
    assert rows["rvpt"][1] == rows["embeddings"][1] == "yes"
    assert rows["digits"][1] != "yes"
    assert all(len(line) > 3 for line in rows.values())


def test_listing_reads_files_and_imports_no_item(suite: Suite, page: Console) -> None:
    loaded = set(sys.modules)
    list_items(suite, page)
    assert not {name for name in set(sys.modules) - loaded if name.startswith(("torch", "bench.attacks."))}


def test_one_item_shows_options_with_defaults_bounds_and_inherited_meanings(page: Console) -> None:
    describe_item("defenses", "rvpt", page)
    text = page.file.getvalue()
    assert "RVPT, Repulsive Visual Prompt Tuning" in text
    (alpha,) = (line for line in text.splitlines() if line.split()[:1] == ["alpha"])
    assert " ".join(alpha.split()) == (
        "alpha float >= 0 2.0 Weight of the repulsion; 0 is deep visual prompt tuning (VPT)."
    )
    assert "Passes over the data." in text  # of TuneOptions


def test_what_options_are_made_of_is_explained_too(page: Console) -> None:
    describe_item("analyses", "embeddings", page)
    lines = [" ".join(line.split()) for line in page.file.getvalue().splitlines()]
    assert any(line.startswith("models dict[str, ModelReference] min_length 1 required") for line in lines)
    assert "ModelReference type default meaning" in lines
    assert "checkpoint str required What it defends." in lines


def test_an_item_without_options_says_so(page: Console) -> None:
    describe_item("attacks", "clean", page)
    assert "no options" in page.file.getvalue()


def test_meanings_are_joined_over_lines_and_the_childs_win() -> None:
    assert option_meanings(Child) == {
        "first": "Another meaning.",
        "second": "Another thing, which takes two lines to say.",
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("BadNet (Gu et al., 2017): a small square. More follows.", "BadNet (Gu et al., 2017): a small square"),
        ("Two\nlines with ``code``.\n\nAnother paragraph.", "Two lines with code"),
        ("No full stop", "No full stop"),
        ("", ""),
    ],
)
def test_first_sentence(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


def test_an_unknown_item_is_told_with_the_nearest_name() -> None:
    assert kinds_of("none") == ["backdoors", "defenses"]
    with pytest.raises(UserError, match="unknown item 'rvtp'; did you mean 'rvpt'"):
        kinds_of("rvtp")
