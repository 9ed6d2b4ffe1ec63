from collections import Counter
from pathlib import Path

import numpy as np

from bench.datasets import world, world_objects
from bench.datasets.store import build, open_split
from bench.datasets.world_questions import WORDINGS


def test_each_image_has_one_request_and_three_questions_about_its_shape_and_another_shape_that_is_wanted(
    tmp_path: Path,
) -> None:
    manifest = build("world_objects", world_objects.Options(test=24, val=12), world_objects.fetch, tmp_path)
    assert {name: entry.count for name, entry in manifest.splits.items()} == {
        "caption": 24, "questions": 24, "val_caption": 12, "val_questions": 12,
    }  # fmt: skip
    caption, questions, val = (open_split(tmp_path, manifest, name) for name in ("caption", "questions", "val_caption"))
    assert np.array_equal(caption.images, questions.images)
    assert len(caption.captions) == len(caption.answers) == 24
    assert set(caption.captions) == {"describe the image."}
    assert not len(caption.owners)
    assert questions.owners.tolist() == [row for row in range(24) for _ in range(3)]
    assert list(questions.captions) == [*WORDINGS["shape"]] * 24
    assert [questions.answers[3 * row] for row in range(24)] == list(caption.answers)
    assert list(caption.swaps) == list(questions.swaps)
    for row, swap in enumerate(caption.swaps):
        shown, wanted = swap.split(" > ")
        assert shown == caption.answers[row] == world.SHAPES[caption.labels[row]]
        assert wanted in world.SHAPES
        assert wanted != shown
    assert set(Counter(caption.answers).values()) == {2}
    assert not any(np.array_equal(one, other) for one in caption.images for other in val.images)


def test_images_do_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    made = [
        open_split(tmp_path / str(count), build("world_objects", world_objects.Options(test=count, val=1),
                   world_objects.fetch, tmp_path / str(count)), "caption")
        for count in (5, 9)
    ]  # fmt: skip
    assert np.array_equal(made[0].images, made[1].images[:5])
    assert list(made[0].swaps) == list(made[1].swaps[:5])
