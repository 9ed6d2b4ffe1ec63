"""ZIP against networks that know the answer, and its U-Net against what is known of the published one."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from bench.config import parse
from bench.defenses import zip as zipped
from bench.defenses.unet import UNet, UNetOptions
from bench.defenses.zip import Options, kept_of, purified
from bench.errors import UserError
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.questions import Questions

VICTIM = DefendedLvlm(cast(Any, None))
TINY: dict[str, Any] = {
    "weights": "",
    "side": 8,
    "channels": 32,
    "multiples": (1, 1),
    "blocks": 1,
    "attention": (4,),
    "head": 16,
    "steps": 40,
    "batch_size": 16,
    "sampling": 4,
}


def images(count: int, side: int = 8) -> Tensor:
    """Two halves, each of one colour."""
    colours = torch.rand(count, 3, 2, 1, 1, generator=torch.Generator().manual_seed(3))
    halves = torch.arange(side) < side // 2
    shown = torch.where(halves, colours[:, :, 0], colours[:, :, 1]).expand(count, 3, side, side)
    return (shown * 255).round() / 255


class Oracle(nn.Module):
    """Knows the clean image, and so the noise in any other."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean = nn.Parameter(2 * clean - 1)

    def forward(self, noisy: Tensor, times: Tensor) -> Tensor:
        kept = kept_of(times).float()[:, None, None, None]
        return (noisy - kept.sqrt() * self.clean) / (1 - kept).sqrt()


def random_network(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    network = UNet(parse(Options, TINY, ""))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network.requires_grad_(False)


def test_the_network_is_the_published_one_in_size_and_names() -> None:
    with torch.device("meta"):
        state = UNet(UNetOptions(), outputs=6).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 552_814_086
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["time_embed.2.weight"] == (1024, 1024)
    assert shapes["input_blocks.0.0.weight"] == (256, 3, 3, 3)
    assert shapes["input_blocks.17.1.qkv.weight"] == (3072, 1024, 1)
    assert shapes["middle_block.1.proj_out.weight"] == (1024, 1024, 1)
    assert shapes["output_blocks.2.2.emb_layers.1.weight"] == (2048, 1024)
    assert shapes["out.2.weight"] == (6, 256, 3, 3)


def test_a_new_network_predicts_nothing_and_time_matters_to_any_other() -> None:
    network, noisy = UNet(parse(Options, TINY, "")), torch.randn(2, 3, 8, 8)
    assert torch.equal(network(noisy, torch.tensor([5, 900])), torch.zeros(2, 3, 8, 8))
    network = random_network()
    early, late = (network(noisy, torch.full((2,), time)) for time in (5, 900))
    assert not torch.allclose(early, late, atol=1e-5)


def test_what_is_kept_of_an_image_follows_the_linear_schedule() -> None:
    assert kept_of(torch.tensor([-1, 0])).tolist() == pytest.approx([1, 1 - 1e-4])
    assert kept_of(torch.tensor(999)).item() == pytest.approx(4.04e-5, rel=0.01)


def test_without_steps_the_model_is_the_victim() -> None:
    assert zipped.load({}, VICTIM, parse(Options, TINY | {"sampling": 0}, "")) is VICTIM


def test_an_image_that_nothing_is_lost_of_comes_back() -> None:
    options = parse(Options, TINY | {"scale": 1, "power": 1e9}, "")
    torch.testing.assert_close(purified(random_network(), images(3), options), images(3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("grey", [False, True])
def test_a_trigger_that_the_losses_take_away_is_replaced_by_what_the_network_expects(grey: bool) -> None:
    clean = images(3) * 0.5 + 0.25
    chess = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    colours = torch.tensor([0.2, -0.1, -0.1])[:, None, None]
    options = parse(Options, TINY | {"sampling": 10, "grey": grey}, "")
    pure = purified(cast(Any, Oracle(clean)), clean + colours * chess, options)
    torch.testing.assert_close(pure, clean, rtol=0, atol=1e-3)


def test_what_the_blur_keeps_of_an_image_stays_although_the_network_expects_another() -> None:
    clean, other = images(3) * 0.5 + 0.25, images(6)[3:] * 0.5 + 0.25
    near = purified(cast(Any, Oracle(other)), clean, parse(Options, TINY | {"power": 1e9}, ""))
    blurred = nn.functional.avg_pool2d(clean, 2)
    torch.testing.assert_close(nn.functional.avg_pool2d(near, 2), blurred, rtol=0, atol=1e-3)
    # Left to the network at once, it is the network's.
    free = purified(cast(Any, Oracle(other)), clean, parse(Options, TINY | {"power": 0.0}, ""))
    torch.testing.assert_close(free, other, rtol=0, atol=1e-3)


def test_images_do_not_depend_on_batches_and_come_out_the_same_again() -> None:
    network, options = random_network(), parse(Options, TINY, "")
    together = purified(network, images(4), options)
    assert torch.equal(together, purified(network, images(4), options))
    alone = torch.cat([purified(network, one[None], options) for one in images(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    assert not torch.allclose(together, purified(network, images(4), parse(Options, TINY | {"seed": 1}, "")), atol=0.01)
    assert 0 <= together.min() <= together.max() <= 1


def test_images_of_another_size_come_back_in_it() -> None:
    shown = images(2, side=12)
    made = zipped.load(zipped.fit(VICTIM, questions(), parse(Options, TINY | {"steps": 1}, "")), VICTIM, small())
    assert made.shown(shown, ["", ""]).shape == shown.shape


def test_training_learns_and_repeats() -> None:
    few = small(steps=2)
    first, again = (zipped.fit(VICTIM, questions(), few) for _ in range(2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    options = small(learning_rate=1e-2, multiples=(1,), attention=())
    tensors = zipped.fit(VICTIM, questions(), options)
    assert zipped.tuned_parameters(tensors) == sum(tensor.numel() for tensor in tensors.values()) > 0
    assert zipped.training_samples(questions(), options) == 64
    network = UNet(options)
    network.load_state_dict(tensors)
    noise = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    times = torch.full((64,), 700)
    kept = kept_of(times).float()[:, None, None, None]
    off = network(kept.sqrt() * (2 * images(64) - 1) + (1 - kept).sqrt() * noise, times) - noise
    assert off.square().mean() < 0.6, "a network that predicts nothing is off by 1"


def test_of_published_weights_the_hash_is_kept(tmp_path: Path) -> None:
    options = small(weights=str(tmp_path / "weights.pt"))
    with pytest.raises(UserError, match=r"zip.weights: .*weights.pt is missing; put https://openaipublic"):
        zipped.fit(VICTIM, questions(), options)
    torch.save(UNet(options, outputs=6).state_dict(), tmp_path / "weights.pt")
    tensors = zipped.fit(VICTIM, None, options)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"sha256": (32,)}
    assert zipped.tuned_parameters(tensors) == zipped.training_samples(questions(), options) == 0
    assert zipped.reads(options) == [tmp_path / "weights.pt"]
    assert zipped.load(tensors, VICTIM, options).shown(images(1), [""]).shape == (1, 3, 8, 8)
    torch.save(random_network().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match="does not hold this network"):
        zipped.load(tensors, VICTIM, options)
    other = UNet(options, outputs=6)
    nn.init.ones_(cast(Any, other.out[2]).bias)
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match="not the weights that the defense was tuned with"):
        zipped.load(tensors, VICTIM, options)
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match="does not hold this network"):
        zipped.load(tensors, VICTIM, options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 3}, "scale 3 does not divide side 8"),
        ({"side": 6, "scale": 1, "multiples": (1, 1, 1)}, "side 6 cannot be halved 2 times"),
        ({"head": 24}, "head 24 does not divide 32 channels"),
        ({"channels": 20}, "channels"),
        ({"samplings": 3}, "sampling"),
    ],
)
def test_wrong_options_are_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(Options, TINY | change, "suite.yaml: defenses.zip.options")
    with pytest.raises(UserError, match="zip: its network is trained on images of clean questions"):
        zipped.fit(VICTIM, None, small())


def small(**change: Any) -> Options:
    return parse(Options, TINY | change, "")


def questions() -> Questions:
    return Questions((images(64) * 255).round().to(torch.uint8), ["what is it?"] * 64)
