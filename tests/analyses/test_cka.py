import pytest
import torch
from torch import Tensor

from bench.analyses import cka
from bench.analyses.cka import alignment
from bench.analyses.contract import Source
from bench.analyses.subjects.models import Sample, load_models
from bench.analyses.subjects.references import ModelReference
from bench.clip.staged import Trace
from tests.analyses.conftest import CLEAN, TUNED, models


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_representation_is_aligned_with_itself_turned_scaled_and_moved() -> None:
    points = random(40, 7)
    rotation, _ = torch.linalg.qr(random(7, 7, seed=1))
    assert alignment(points, points) == pytest.approx(1, abs=1e-12)
    assert alignment(points, -3.5 * points @ rotation + 2) == pytest.approx(1, abs=1e-12)
    assert alignment(points, points * torch.arange(1, 8)) < 0.99, "a stretch is no rotation"


def test_it_is_symmetric_and_low_for_what_has_nothing_to_do_with_each_other() -> None:
    first, second = random(500, 3), random(500, 5, seed=1)
    assert alignment(first, second) == pytest.approx(alignment(second, first), abs=1e-12)
    assert 0 <= alignment(first, second) < 0.05


def test_it_is_the_papers_formula() -> None:
    first, second, n = random(12, 4), random(12, 6, seed=1), 12
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    k, m = first @ first.T, second @ second.T

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        return torch.trace(a @ centring @ b @ centring)

    assert alignment(first, second) == pytest.approx((hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()).item(), abs=1e-12)


def test_a_constant_representation_has_no_alignment() -> None:
    constant = torch.full((30, 4), 0.1, dtype=torch.float64)
    assert alignment(constant, random(30, 4)) != alignment(constant, random(30, 4)), "NaN"


@pytest.mark.parametrize("token", ["class", "patches"])
def test_blocks_are_compared_by_what_they_put_out(source: Source, sample: Sample, token) -> None:
    (model,) = load_models(source, {"tuned": ModelReference.model_validate(TUNED)}, "shapes")
    found = cka.outputs(model, sample, token)
    trace = Trace(every_token=True)
    with torch.no_grad():
        model.defended.image(sample.split.batch(sample.rows), trace)
    for block, tokens in zip(found, trace.tokens, strict=True):
        expected = tokens[:, 0] if token == "class" else tokens[:, 1:17].mean(dim=1)
        torch.testing.assert_close(block, expected.double())


def test_prompts_are_no_patches(source: Source, sample: Sample) -> None:
    (model,) = load_models(source, {"R": ModelReference.model_validate(models("rvpt")["rvpt"])}, "shapes")
    assert [tuple(block.shape) for block in cka.outputs(model, sample, "patches")] == [(24, 128)] * 6


def test_a_model_with_itself_is_1_on_the_diagonal_and_another_is_not(source: Source) -> None:
    options = cka.Options.model_validate(
        {"dataset": "shapes", "standard": CLEAN, "models": {"itself": CLEAN, "tuned": TUNED}}
    )
    frame = cka.measure(source, options)
    assert len(frame) == 2 * 6 * 6
    diagonal = frame[frame["block"] == frame["other_block"]].set_index(["model", "block"])["cka"]
    assert diagonal["itself"].to_numpy() == pytest.approx(1, abs=1e-9)
    assert (diagonal["tuned"] < 0.999).all()
    # Of the standard model, and not of the other one, block b stands for b: on the vertical axis.
    itself = frame[frame["model"] == "itself"].pivot(index="block", columns="other_block", values="cka").to_numpy()
    assert itself == pytest.approx(itself.T, abs=1e-9)
