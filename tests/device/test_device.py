"""The device is chosen by configuration alone, and the pretended one has the rules of a real one."""

import pytest
import torch

from bench.device import compute_device, device_of
from bench.errors import UserError
from bench.provenance import provenance
from tests.pretend_device import DEVICE


def test_two_devices_do_not_meet(pretend):
    here, there = torch.rand(3, 4), torch.rand(3, 4).to(pretend)
    for meet in (lambda: here + there, lambda: there @ here.T, lambda: here[there[0].argmax()[None]]):
        with pytest.raises(RuntimeError):
            meet()
    with pytest.raises(RuntimeError, match="drawn on the processor"):
        torch.randn_like(there)
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    assert torch.equal((there + 1).cpu(), there.cpu() + 1)
    assert there[torch.tensor([2, 0])].device == DEVICE


def test_gradients_and_optimisers_stay_on_the_device(pretend):
    layer, images = torch.nn.Linear(4, 2).to(pretend), torch.rand(3, 4).to(pretend).requires_grad_()
    layer(images).sum().backward()
    assert {layer.weight.grad.device, images.grad.device} == {DEVICE}
    before = layer.weight.detach().cpu().clone()
    torch.optim.AdamW(layer.parameters(), lr=0.1).step()
    assert not torch.equal(layer.weight.detach().cpu(), before)
    assert device_of(layer) == DEVICE


@pytest.mark.parametrize("name", ["cpu", "", None])
def test_without_an_accelerator_the_processor_computes(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("BENCH_DEVICE", raising=False)
    if name is not None:
        monkeypatch.setenv("BENCH_DEVICE", name)
    assert compute_device() == torch.device("cpu")
    assert "cores)" in provenance().device


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "pretend:7"])
def test_a_device_that_is_not_here_is_one_clear_error(name, monkeypatch):
    monkeypatch.setenv("BENCH_DEVICE", name)
    with pytest.raises(UserError, match=f"BENCH_DEVICE: '{name}' is not"):
        compute_device()
