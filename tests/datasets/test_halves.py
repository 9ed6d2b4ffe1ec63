"""Base-to-new: which classes are base classes, and which images and names belong to a half."""

from pathlib import Path

import pytest

from bench.datasets import digits, shapes
from bench.datasets.halves import Part, base_classes, draw, part_of
from bench.datasets.store import Description, Manifest, SplitEntry, build, open_split
from bench.defenses.artefact import task_of
from bench.errors import UserError


def manifest(classes: int, base: int = 0, *splits: str) -> Manifest:
    description = Description(
        class_names=tuple(f"class {label}" for label in range(classes)),
        template="{}",
        source="",
        licence="",
        redistribution=True,
        base_classes=base,
    )
    entry = SplitEntry(count=0, per_class=(), files={})
    return Manifest(dataset="d", options={}, description=description, splits=dict.fromkeys(("test", *splits), entry))


@pytest.mark.parametrize(("classes", "stated", "expected"), [(12, 0, 6), (37, 0, 19), (101, 0, 51), (37, 18, 18)])
def test_the_base_half_is_the_larger_one_or_what_the_manifest_says(classes: int, stated: int, expected: int) -> None:
    made = manifest(classes, stated)
    assert base_classes(made) == range(expected)
    assert part_of(made, "test_base") == Part("test", range(expected))
    assert part_of(made, "test_new") == Part("test", range(expected, classes))


def test_a_split_of_that_name_and_an_unknown_one_stay_what_they_are() -> None:
    made = manifest(4, 0, "test_new")
    assert part_of(made, "test") == Part("test", range(4))
    assert part_of(made, "test_new") == Part("test_new", range(4))
    assert part_of(made, "val_base") == Part("val_base", range(4))
    assert part_of(made, "base") == Part("base", range(4))


def test_the_halves_are_the_whole_split_with_labels_that_fit_their_names(tmp_path: Path) -> None:
    few = shapes.Options(train_per_class=1, val_per_class=1, test_per_class=3)
    made = build("shapes", few, shapes.fetch, tmp_path)
    truth, names = open_split(tmp_path, made, "test").labels, made.description.class_names
    drawn = {half: draw(tmp_path, made, f"test_{half}") for half in ("base", "new")}
    assert sorted(drawn["base"].rows + drawn["new"].rows) == list(range(len(truth)))
    for half in drawn.values():
        task = task_of(made, classes=half.classes)
        assert [task.class_names[label] for label in half.labels.tolist()] == [names[truth[row]] for row in half.rows]
        assert len(task.class_names) == 6
    assert drawn["new"].images.equal(open_split(tmp_path, made, "test").batch(drawn["new"].rows))


def test_a_sample_of_a_half_is_even_over_its_classes(tmp_path: Path) -> None:
    made = build("digits", digits.Options(), digits.fetch, tmp_path)
    drawn = draw(tmp_path, made, "test_new", 10)
    assert sorted(drawn.labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert draw(tmp_path, made, "test", 10).labels.tolist() != drawn.labels.tolist()


def test_half_of_a_split_that_is_not_there_is_told(tmp_path: Path) -> None:
    few = shapes.Options(train_per_class=1, val_per_class=1, test_per_class=1)
    made = build("shapes", few, shapes.fetch, tmp_path)
    with pytest.raises(UserError, match="no split 'tset_new'"):
        draw(tmp_path, made, "tset_new")
