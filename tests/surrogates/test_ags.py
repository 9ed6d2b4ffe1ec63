"""The substitute's losses and views by hand, and a training of a few steps."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.clip.defended import Task
from bench.datasets import captions
from bench.datasets.store import build
from bench.surrogates import ags

TINY: dict[str, Any] = {"backbone": "resnet10", "batch_size": 4, "epochs": 1, "learning_rate": 0.01, "count": 8}


def official_nt_xent(out_1: Tensor, out_2: Tensor, out_3: Tensor, temperature: float) -> Tensor:
    """``nt_xent_triple`` of the authors' code: one masked matrix, six sums."""
    size, out = len(out_1), torch.cat([out_1, out_2, out_3])
    matrix = torch.exp(out @ out.t() / temperature)
    pairs = {
        frozenset(pair): torch.exp((a * b).sum(dim=-1) / temperature)
        for pair, a, b in (((0, 1), out_1, out_2), ((0, 2), out_1, out_3), ((1, 2), out_2, out_3))
    }
    rows = matrix.masked_select(~torch.eye(3 * size, dtype=torch.bool)).view(3, size, -1).sum(dim=-1)
    total = torch.zeros(())
    for anchor in range(3):
        for positive in set(range(3)) - {anchor}:
            (left_out,) = set(range(3)) - {anchor, positive}
            rest = rows[anchor] - pairs[frozenset((anchor, left_out))]
            total = total - torch.log(pairs[frozenset((anchor, positive))] / rest).mean()
    return total / 6


def test_the_loss_equals_the_official_one() -> None:
    views = [nn.functional.normalize(torch.randn(5, 7, generator=torch.Generator().manual_seed(s))) for s in range(3)]
    expected = official_nt_xent(*views, 0.5)
    torch.testing.assert_close(ags.nt_xent_3(*views, 0.5), expected, rtol=1e-5, atol=1e-6)


def test_the_loss_of_two_orthogonal_images_is_that_done_by_hand() -> None:
    # Each image's views agree (cosine 1), the images are orthogonal (cosine 0). An anchor's denominator: its positive,
    # e^2 at temperature 0.5, and three views of the other image, 3 e^0; self and the other positive are left out.
    view = torch.eye(2)
    by_hand = math.log((math.exp(2) + 3) / math.exp(2))
    assert ags.nt_xent_3(view, view, view, 0.5).item() == pytest.approx(by_hand, abs=1e-6)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 6))


def test_adversarial_views_disagree_more_and_stay_in_the_ball() -> None:
    net, images = small_net(), torch.rand(6, 3, 8, 8)
    views, options = (torch.rand(6, 3, 8, 8), torch.rand(6, 3, 8, 8)), ags.Options(eps=0.3, inner_steps=2)
    running = net[1].running_mean.clone()
    found = ags.adversarial_views(net, views, images, options)
    assert net.training
    assert torch.equal(net[1].running_mean, running), "made in evaluation mode"
    norms = (found - images).flatten(1).norm(dim=1)
    assert (norms <= 0.3 + 1e-6).all()
    assert (norms > 0.1).all()
    assert found.min() >= 0
    assert found.max() <= 1
    net.eval()
    outputs = [nn.functional.normalize(net(each), dim=-1) for each in (*views, images, found)]
    assert ags.nt_xent_3(*outputs[:2], outputs[3], 0.5) > ags.nt_xent_3(*outputs[:3], 0.5)


def test_a_substitute_is_trained_without_labels_and_gives_the_second_stage(tmp_path: Path) -> None:
    build("captions", captions.Options(pairs=12), captions.fetch, tmp_path)
    options = ags.Options(**TINY)
    tensors, again = ags.make(options, tmp_path), ags.make(options, tmp_path)
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    assert any(name.startswith("layer4") for name in tensors)
    assert not any(name.startswith("fc") for name in tensors)
    features = ags.restore(tensors, options, Task((), "{}"))
    images = torch.rand(2, 3, 32, 32)
    assert features(images).shape == (2, 128, 4, 4)
    assert torch.equal(features(images), features(images))
    assert not any(parameter.requires_grad for parameter in features.parameters())


def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path: Path) -> None:
    build("captions", captions.Options(pairs=12), captions.fetch, tmp_path)
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        ags.make(ags.Options(**{**TINY, "learning_rate": 1e30, "epochs": 3}), tmp_path)


@pytest.mark.parametrize(("name", "width"), [("resnet50", 512), ("resnet18", 128)])
def test_paper_backbones_give_their_second_stage(name: str, width: int) -> None:
    options = ags.Options(backbone=name)
    tensors = ags._backbone(options).state_dict()
    features = ags.restore(tensors, options, Task((), "{}"))
    assert features(torch.rand(1, 3, 64, 64)).shape == (1, width, 8, 8)
