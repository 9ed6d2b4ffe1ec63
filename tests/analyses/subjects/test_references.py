import pytest

from bench.analyses.contract import Source
from bench.analyses.subjects.references import CellReference, ImageReference, ModelReference, faults_of
from bench.config import Options


class Holder(Options):
    models: dict[str, ModelReference]
    images: ImageReference
    cells: tuple[CellReference, ...] = ()


MODEL = {"track": "backdoor", "defense": "rvpt", "checkpoint": "badnet"}
RIGHT = {"models": {"RVPT": MODEL}, "images": {"dataset": "shapes"}}


def faults(source: Source, **changes: object) -> list[str]:
    return list(faults_of(Holder.model_validate(RIGHT | changes), source.suite, "suite: analyses.a.options"))


def test_right_references_have_no_faults(source: Source) -> None:
    assert faults(source, cells=[{"track": "backdoor", "dataset": "shapes", "checkpoints": ["badnet"]}]) == []


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"track": "bakdoor"}, "track: unknown track 'bakdoor'; did you mean 'backdoor'?"),
        ({"defense": "rvtp"}, "defense: unknown defense of track 'backdoor' 'rvtp'; did you mean 'rvpt'?"),
        (
            {"checkpoint": "badnets"},
            "checkpoint: unknown checkpoint of track 'backdoor' 'badnets'; did you mean 'badnet'?",
        ),
        ({"checkpoint": "clean"}, "checkpoint: unknown checkpoint of track 'backdoor' 'clean'; known: badnet"),
        ({"dataset": "shaeps"}, "dataset: unknown dataset of track 'backdoor' 'shaeps'; did you mean 'shapes'?"),
        ({"seed": 2}, "seed: unknown seed '2'; known: 1"),
    ],
)
def test_an_unknown_model_names_the_key_and_the_nearest(source: Source, changed: dict, fault: str) -> None:
    assert faults(source, models={"RVPT": MODEL | changed}) == [f"suite: analyses.a.options.models.RVPT.{fault}"]


def test_all_faults_are_told_at_once_wherever_they_are(source: Source) -> None:
    wrong = {"track": "backdoor", "dataset": "digits", "split": "val", "checkpoints": ["badnet", "blended"]}
    assert faults(source, images={"dataset": "shape"}, cells=[wrong]) == [
        "suite: analyses.a.options.images.dataset: unknown dataset 'shape'; did you mean 'shapes'?",
        "suite: analyses.a.options.cells.0.dataset: unknown dataset of track 'backdoor' 'digits'; known: shapes",
        "suite: analyses.a.options.cells.0.split: unknown split of track 'backdoor' 'val'; known: test",
        "suite: analyses.a.options.cells.0.checkpoints: unknown checkpoint of track 'backdoor' 'blended'; "
        "known: badnet",
    ]
