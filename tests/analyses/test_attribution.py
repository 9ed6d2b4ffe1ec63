"""Attribution maps: they are the defense's own, know the words they stand for, and stay where nothing is attacked."""

import dataclasses

import pytest
import torch
from matplotlib.figure import Figure

from bench.analyses import attribution
from bench.analyses.contract import Source
from bench.analyses.run import read_frame, to_csv
from bench.analyses.subjects.models import Opened, Sample
from bench.analyses.subjects.references import faults_of
from bench.clip.staged import TextEdits, Trace
from bench.config import Suite
from bench.defenses import cba_fapt
from bench.defenses.artefact import task_of
from tests.analyses.conftest import models

PGD = {"threat_model": "white_box", "options": {"eps": 8, "step": 4, "steps": 3}}


@pytest.fixture
def attacked(source: Source) -> Source:
    """The suite with a short attack."""
    content = source.suite.model_dump() | {
        "attacks": source.suite.model_dump()["attacks"]
        | {"pgd": PGD, "still": {**PGD, "method": "pgd", "options": {"eps": 0, "steps": 1}}}
    }
    return source._replace(suite=Suite.model_validate(content))


def options(attack: str = "pgd", row: int = 1) -> attribution.Options:
    content = {"dataset": "shapes", "images": 6, "row": row, "attack": attack, "models": models("none", "rvpt")}
    return attribution.Options.model_validate(content)


def test_the_maps_are_those_that_tuning_keeps_in_place(opened, sample: Sample) -> None:
    model: Opened = opened("none")
    task, images, labels = task_of(sample.manifest), next(sample.batches())[:3], sample.labels[:3]
    visual, textual, shown = attribution.attributions(model, task, images, labels)
    staged, trace = model.defended.staged, Trace()
    model.defended.image(images.clone().requires_grad_(), trace)
    expected, _ = cba_fapt.image_maps(staged, trace, model.defended.texts(task)[labels], cba_fapt.Options())
    assert visual.allclose(expected, atol=1e-7)
    assert visual.abs().sum() > 0
    # "a photo of a heart.": five words between start and end.
    assert shown.sum(dim=1).tolist() == [5, 5, 5]
    assert (textual[~shown] == 0).all()


def test_words_stand_at_their_places_and_learned_vectors_are_numbered(opened, sample: Sample) -> None:
    model: Opened = opened("none")
    task = task_of(sample.manifest)
    assert attribution.words_of(model, task, 7)[:8] == ["", "a", "photo", "of", "a", "heart", "", ""]
    context = TextEdits(context=torch.zeros(2, model.defended.staged.text_width), wording=lambda _: "a photo of a {}.")
    tuned = model._replace(defended=dataclasses.replace(model.defended, text_edits=context))
    assert attribution.words_of(tuned, task, 7)[:7] == ["", "v1", "v2", "of", "a", "heart", ""]


def test_nothing_moves_without_an_attack_and_something_does_with_one(attacked: Source) -> None:
    still = attribution.measure(attacked, options("still"))
    assert still.loc[still["part"] == "shift", "image_cosine"].to_numpy() == pytest.approx(1, abs=1e-5)
    moved = attribution.measure(attacked, options())
    shift = moved[moved["part"] == "shift"]
    assert len(shift) == 2 * 6
    assert (shift["image_cosine"] < 0.999).any()
    assert (shift["text_cosine"] < 0.99999).any()
    probabilities = moved[moved["part"] == "classes"].groupby(["model", "version"])["weight"]
    assert (probabilities.first() >= probabilities.last()).all()


def test_it_is_drawn_from_its_csv_alone(attacked: Source, tmp_path) -> None:
    (tmp_path / "a.csv").write_text(to_csv(attribution.measure(attacked, options())))
    picture = attribution.draw(read_frame(tmp_path / "a.csv"), options())
    assert isinstance(picture, Figure)
    assert [axes.get_title() for axes in picture.axes[:2]] == ["none, clean", "rvpt, clean"]
    assert {"heart", "photo"} & {text.get_text() for axes in picture.axes for text in axes.texts}


def test_only_an_attack_with_gradients_can_be_named(attacked: Source) -> None:
    (fault,) = faults_of(options("trigger"), attacked.suite, "key")
    assert "white-box attack" in fault
