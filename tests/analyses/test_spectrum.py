from typing import Any

import pytest
import torch
from torch import Tensor

from bench.analyses import spectrum
from bench.analyses.contract import Source
from bench.analyses.spectrum import amplitudes
from bench.analyses.subjects.models import Sample, load_models
from bench.analyses.subjects.references import ModelReference
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import ImageEdits, StagedCLIP
from bench.errors import UserError
from tests.analyses.conftest import CLEAN, TUNED


def given(**changes: Any) -> spectrum.Options:
    return spectrum.Options.model_validate({"dataset": "shapes", "standard": CLEAN} | changes)


def test_a_wave_stands_at_its_own_frequency_and_a_constant_in_the_middle() -> None:
    rows = torch.arange(8, dtype=torch.float64)
    wave = torch.cos(2 * torch.pi * 2 * rows / 8)[:, None].expand(8, 8)
    found = amplitudes(torch.stack([wave, wave]))
    assert found.shape == (8, 8)
    assert torch.nonzero(found > 1e-9).tolist() == [[2, 4], [6, 4]], "two cycles down, none across"
    assert found[2, 4] == pytest.approx(32)
    constant = amplitudes(torch.ones(1, 8, 8))
    assert torch.nonzero(constant > 1e-9).tolist() == [[4, 4]]


def test_amplitudes_are_averaged_and_not_the_planes() -> None:
    plane = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(amplitudes(torch.cat([plane, -plane])), amplitudes(plane))


def test_the_shift_is_the_papers_equation(source: Source) -> None:
    frame = spectrum.measure(source, given(models={"tuned": TUNED, "itself": CLEAN}))
    assert set(frame["kind"]) == {"kernel"}
    assert (frame.loc[frame["panel"] == "itself", "shift"] == 0).all()
    references = {name: ModelReference.model_validate(model) for name, model in (("a", CLEAN), ("b", TUNED))}
    standard, tuned = (model.defended.staged.visual.conv1.weight for model in load_models(source, references, "shapes"))
    u, v = 2, -3
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    wave = torch.exp(-2j * torch.pi * (u * row + v * column) / 8)
    expected = [
        (kernels * wave).sum(dim=(-2, -1)).abs().mean().item() for kernels in (tuned.detach(), standard.detach())
    ]
    line = frame[(frame["panel"] == "tuned") & (frame["u"] == u) & (frame["v"] == v)].iloc[0]
    assert line["shift"] == pytest.approx(expected[0] - expected[1], abs=1e-6)


def test_a_gaussian_filter_has_its_own_gain(source: Source, sample: Sample, mini: StagedCLIP) -> None:
    size, cutoff = 32, 6.0
    places = torch.fft.fftfreq(size, 1 / size)
    gain = torch.exp(-(places[:, None] ** 2 + places**2) / (2 * cutoff**2))

    def low_pass(images: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(images) * gain).real

    model = DefendedCLIP(mini, ImageEdits(pixels=low_pass))
    shift = spectrum._gain(sample, spectrum._filtered(source, "filter", model, sample)) - 1
    torch.testing.assert_close(shift, (torch.fft.fftshift(gain) - 1).double(), atol=2e-4, rtol=0)


def test_an_attack_raises_high_frequencies_most(source: Source) -> None:
    frame = spectrum.measure(source, given(attacks={"PGD": {"attack": "pgd"}}))
    assert set(frame["kind"]) == {"images"}
    assert len(frame) == 32 * 32
    assert spectrum._half(frame, low=False) > max(0.05, spectrum._half(frame, low=True))
    middle = frame[(frame["u"] == 0) & (frame["v"] == 0)]["shift"].item()
    assert abs(middle) < 0.05, "the mean brightness stays"


def test_what_has_no_spectrum_to_show_is_told(source: Source) -> None:
    with pytest.raises(UserError, match="nothing to show; name models, filters or attacks"):
        spectrum.measure(source, given())
    with pytest.raises(UserError, match=r"options\.filters: 'tuned' does not edit pixels; name a model with a filter"):
        spectrum.measure(source, given(filters={"tuned": TUNED}))
