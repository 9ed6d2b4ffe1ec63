from collections.abc import Callable

import pytest
import torch
from matplotlib.figure import Figure

from bench.analyses import embeddings
from bench.analyses.contract import Source
from bench.analyses.subjects.models import Opened, Sample
from bench.errors import UserError
from tests.analyses.conftest import models


def options(**changes: object) -> embeddings.Options:
    given = {"dataset": "shapes", "images": 12, "perplexity": 5.0, "models": models("none", "rvpt")}
    return embeddings.Options.model_validate(given | changes)


def toy(shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean points around one direction and triggered ones around another, ``shift`` away."""
    noise = 0.05 * torch.randn(2, 300, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.tensor([1.0, 0, 0]) + noise[0], torch.tensor([1 - shift, shift, 0]) + noise[1]


def test_a_cluster_of_its_own_has_a_silhouette_near_1_and_mixed_points_have_none() -> None:
    apart, own = embeddings.separation(*toy(1.0))
    assert min(apart) > 0.9
    assert max(own) < 0.3
    mixed, own = embeddings.separation(*toy(0.0))
    assert abs(sum(mixed) / 300) < 0.1
    assert min(own) > 0.95


def test_images_that_the_trigger_does_not_move_have_cosine_1_to_themselves() -> None:
    clean, _ = toy(1.0)
    _, own = embeddings.separation(clean, clean.clone())
    assert set(own) == {1.0}


def test_the_numbers_belong_to_the_models_own_embeddings(
    source: Source, opened: Callable[[str], Opened], sample: Sample
) -> None:
    frame = embeddings.measure(source, options(images=None))
    model = opened("rvpt")
    assert model.checkpoint.trigger is not None
    clean, triggered = model.features(sample), model.features(sample, change=model.checkpoint.trigger.apply)
    rows = frame[(frame["model"] == "rvpt") & (frame["version"] == "triggered")]
    cosines = torch.nn.functional.cosine_similarity(clean, triggered)
    assert rows["own_cosine"].to_numpy(float) == pytest.approx(cosines.numpy())
    assert rows["row"].tolist() == sample.rows
    assert frame[frame["version"] == "clean"]["silhouette"].isna().all()


def test_the_map_repeats_and_is_drawn(source: Source) -> None:
    first, again = (embeddings.measure(source, options()) for _ in range(2))
    assert first.equals(again)
    assert len(first) == 2 * 2 * 12
    assert isinstance(embeddings.draw(first, options()), Figure)


def test_too_few_images_for_the_perplexity_are_told(source: Source) -> None:
    with pytest.raises(UserError, match=r"analyses\.figure\.options\.perplexity: must be below twice the 12 images"):
        embeddings.measure(source, options(perplexity=24.0))
