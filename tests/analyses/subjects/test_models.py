import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.subjects.models import Opened, Sample, open_models, open_sample, read_card
from bench.analyses.subjects.references import ImageReference
from bench.clip.model import normalise
from bench.defenses.artefact import load_artefact, parts_of
from bench.errors import UserError
from tests.analyses.conftest import reference

pytestmark = pytest.mark.usefixtures("exact")


def test_an_undefended_model_is_its_checkpoints_clip(opened: Callable[[str], Opened], sample: Sample) -> None:
    model = opened("none")
    clip = model.checkpoint.clip
    with torch.no_grad():
        expected = clip.model.encode_image(normalise(clip, sample.split.batch(sample.rows)))
    assert torch.equal(model.features(sample), expected.double())


def test_a_defended_model_is_the_artefact_on_its_checkpoint(
    opened: Callable[[str], Opened], source: Source, sample: Sample
) -> None:
    model = opened("rvpt")
    folder = source.paths.defended("backdoor", "rvpt", "badnet") / "shapes.seed1"
    parts = parts_of(source.suite.tracks["backdoor"], "rvpt", "suite")
    _, expected = load_artefact(folder, parts, model.checkpoint)
    assert expected is not None
    images = sample.split.batch(sample.rows)
    with torch.no_grad():
        assert torch.equal(model.features(sample), expected.image(images).double())
    assert (model.features(sample) - opened("none").features(sample)).abs().max() > 1e-3


@pytest.mark.parametrize("defense", ["none", "rvpt"])
def test_the_class_token_is_what_the_embedding_is_projected_from(
    opened: Callable[[str], Opened], sample: Sample, defense: str
) -> None:
    model = opened(defense)
    projected = model.features(sample, "class_token") @ model.defended.staged.visual.proj.double()
    torch.testing.assert_close(projected, model.features(sample), atol=1e-5, rtol=1e-5)


def test_images_are_handed_out_with_their_own_streams_whatever_the_batch(sample: Sample, monkeypatch) -> None:
    seen = list[list[int]]()

    def note(images: Tensor, seeds) -> Tensor:
        seen.append(list(seeds))
        return images

    whole = torch.cat(list(sample.batches(note)))
    monkeypatch.setattr("bench.analyses.subjects.models._BATCH", 7)
    parts = torch.cat(list(sample.batches(note)))
    assert torch.equal(whole, parts)
    assert seen[0] == [seed for seeds in seen[1:] for seed in seeds]
    assert len(set(seen[0])) == len(sample.rows)
    assert next(sample.only(5, "key").batches(note)).equal(whole[5:6])
    assert seen[-1] == seen[0][5:6]


def test_a_sample_is_even_over_the_classes(source: Source) -> None:
    chosen = open_sample(source, ImageReference(dataset="shapes", images=12))
    assert sorted(chosen.labels.tolist()) == list(range(12))


def test_an_image_beyond_the_split_is_told(sample: Sample) -> None:
    with pytest.raises(UserError, match=r"suite: row: 24 is beyond the 24 images of 'shapes'"):
        sample.only(24, "suite: row")


def test_the_target_is_the_checkpoints(opened: Callable[[str], Opened], sample: Sample) -> None:
    target = opened("none").target(sample)
    assert target is not None
    assert sample.manifest.description.class_names[target] == "heart"


def test_what_has_not_been_tuned_is_told(source: Source, sample: Sample) -> None:
    absent = reference("rvpt").model_copy(update={"seed": 2})
    with pytest.raises(UserError, match=r"shapes\.seed2/artefact\.json is missing: tune the defense first"):
        list(open_models(source, {"RVPT": absent}, sample))
    with pytest.raises(UserError, match="tune the defense first"):
        read_card(source, absent, "shapes")


def test_a_backdoor_that_failed_its_gate_is_told_in_the_name(source: Source, sample: Sample, monkeypatch) -> None:
    from bench.analyses.subjects import models

    real = models.load_checkpoint

    def failing(folder):
        made = real(folder)
        gate = made.card.gate.model_copy(update={"passed": False})
        return made._replace(card=made.card.model_copy(update={"gate": gate}))

    monkeypatch.setattr(models, "load_checkpoint", failing)
    (model,) = open_models(source, {"CLIP": reference("none")}, sample)
    assert model.name == "CLIP (attack failed)"


def test_a_diverged_defense_is_told(source: Source, sample: Sample, tmp_path, monkeypatch) -> None:
    folder = source.paths.defended("backdoor", "rvpt", "badnet") / "shapes.seed1"
    card = json.loads((folder / "artefact.json").read_text())
    copied = tmp_path / "defended" / "backdoor" / "rvpt" / "badnet" / "shapes.seed1"
    copied.mkdir(parents=True)
    (copied / "artefact.json").write_text(json.dumps(card | {"state": "diverged", "reason": "the loss is nan"}))
    (tmp_path / "base").symlink_to(source.paths.models / "base")
    other = source._replace(paths=source.paths._replace(models=tmp_path))
    with pytest.raises(UserError, match="model 'RVPT' diverged in training: the loss is nan"):
        list(open_models(other, {"RVPT": reference("rvpt")}, sample))
