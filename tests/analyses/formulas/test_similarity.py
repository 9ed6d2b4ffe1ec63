from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from bench.analyses.contract import Source
from bench.analyses.formulas.similarity import Cosines, cosine, cosines, intra_class, resistivity
from bench.analyses.subjects.models import Opened, Sample
from bench.analyses.subjects.perturbations import Identity, Perturbation


@pytest.fixture
def measured() -> Cosines:
    dice = np.random.default_rng(4)
    features = dice.uniform(0.2, 1.0, 200)
    return Cosines(features, 0.5 + 0.5 * features * dice.uniform(0.9, 1.0, 200))


@pytest.mark.parametrize("defense", ["none", "rvpt"])
@pytest.mark.parametrize("kind", ["embedding", "class_token"])
def test_resistivity_is_exactly_1_where_nothing_changes(
    opened: Callable[[str], Opened], sample: Sample, defense: str, kind
) -> None:
    found = cosines(opened(defense), sample, {"identity": Identity().apply}, kind)["identity"]
    assert set(found.features.tolist()) == set(found.logits.tolist()) == {1.0}
    assert {tuple(told) for told in resistivity(found, 20).values()} == {(1.0, 1.0, 1.0)}


def test_the_cosines_are_those_of_the_models_own_features_and_logits(
    opened: Callable[[str], Opened], source: Source, sample: Sample
) -> None:
    model = opened("rvpt")
    flip = Perturbation.model_validate({"flip": {}}).open(source)
    found = cosines(model, sample, {"flip": flip}, "embedding")["flip"]
    images = sample.split.batch(sample.rows)
    with torch.no_grad():
        features = [model.defended.image(version) for version in (images, images.flip(-1))]
        logits = [model.classifier(version) for version in (images, images.flip(-1))]
    expected = [torch.nn.functional.cosine_similarity(*pair).numpy() for pair in (features, logits)]
    np.testing.assert_allclose(found.features, expected[0], atol=1e-5)
    np.testing.assert_allclose(found.logits, expected[1], atol=1e-5)


def test_a_rotation_of_linear_features_by_an_angle_has_its_cosine() -> None:
    """phi is the identity and g the first coordinate and a constant, so both cosines are known in closed form."""
    angles = torch.linspace(0, 1.5, 7, dtype=torch.float64)
    plain = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(7, 2)
    turned = torch.stack([angles.cos(), angles.sin()], dim=1)
    logits = [torch.stack([points[:, 0], torch.ones(7, dtype=torch.float64)], dim=1) for points in (plain, turned)]
    toy = Cosines(cosine(plain, turned).numpy(), cosine(*logits).numpy())
    expected = (angles.cos() + 1) / (2**0.5 * (angles.cos() ** 2 + 1).sqrt())
    np.testing.assert_allclose(toy.features, angles.cos().numpy(), atol=1e-12)
    np.testing.assert_allclose(toy.logits, expected.numpy(), atol=1e-12)
    ratio = resistivity(toy)["pr"].value
    assert ratio == pytest.approx((angles.cos().mean() / expected.mean()).item())
    assert ratio != pytest.approx((angles.cos() / expected).mean().item()), "a ratio of means, not a mean of ratios"


def test_cosine_is_torchs_and_exactly_1_for_equal_rows() -> None:
    first, second = torch.randn(2, 500, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cosine(first, second), torch.nn.functional.cosine_similarity(first, second, dim=-1))
    assert (cosine(first, first) == 1).all()


def test_the_intervals_are_those_of_scipys_bootstrap(measured: Cosines) -> None:
    told = resistivity(measured, 4000, seed=1)
    expected = bootstrap(
        measured, lambda f, g, axis: f.mean(axis=axis) / g.mean(axis=axis), paired=True, method="percentile",
        n_resamples=4000, vectorized=True, random_state=2,
    ).confidence_interval  # fmt: skip
    width = expected.high - expected.low
    assert told["pr"].low == pytest.approx(expected.low, abs=0.05 * width)
    assert told["pr"].high == pytest.approx(expected.high, abs=0.05 * width)
    assert told["features"].value == measured.features.mean()
    assert told["logits"].value == measured.logits.mean()
    assert all(estimate.low < estimate.value < estimate.high for estimate in told.values())


def test_the_bootstrap_repeats_and_can_be_left_out(measured: Cosines) -> None:
    assert resistivity(measured, 50, seed=1) == resistivity(measured, 50, seed=1)
    assert resistivity(measured, 50, seed=1) != resistivity(measured, 50, seed=2)
    bare = resistivity(measured)["pr"]
    assert bare.value == resistivity(measured, 50)["pr"].value
    assert np.isnan([bare.low, bare.high]).all()


def test_intra_class_similarity_is_the_mean_over_the_others_of_the_class() -> None:
    features = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 3, 3, 2])
    expected = []
    for row, label in enumerate(labels):
        others = [other for other in range(9) if other != row and labels[other] == label]
        similarities = [
            torch.nn.functional.cosine_similarity(features[row], features[other], dim=0) for other in others
        ]
        expected.append(np.mean(similarities) if others else np.nan)
    np.testing.assert_allclose(intra_class(features, labels), expected, atol=1e-12)
