import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.backdoors.issba import bits_of
from bench.backdoors.steganography import (
    NetworkOptions,
    SteganographyCard,
    SteganographyOptions,
    bit_accuracy,
    build,
    load_steganography,
    make_steganography,
    psnr,
    similarity,
)
from bench.backdoors.trigger import Trigger, make_trigger
from bench.datasets import captions
from bench.datasets.store import build as build_dataset
from bench.errors import UserError

from .settings import photos, setting

SMALL = {"dataset": "captions", "bits": 56, "enlarge": 2, "widths": (8, 16), "batch_size": 16}
STEGA = "01010011011101000110010101100111011000010010000100100001"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_dataset("captions", captions.Options(pairs=320), captions.fetch, folder)
    return folder


def trained(data: Path, folder: Path, **options: Any) -> SteganographyCard:
    return make_steganography(SteganographyOptions(**{**SMALL, **options}), data, folder / "steganography")


@pytest.fixture(scope="module")
def able(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks that have learned to talk, if loudly, in seconds."""
    folder = tmp_path_factory.mktemp("able")
    trained(data, folder, steps=150, learning_rate=4e-3, psnr=22, similarity_weight=0)
    return folder / "steganography"


@pytest.fixture(scope="module")
def mute(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mute")
    trained(data, folder, steps=1)
    return folder / "steganography"


@pytest.fixture(scope="module")
def issba(able: Path) -> Trigger:
    return make_trigger("issba", {"least_bit_accuracy": 60}, setting()._replace(steganography=able), "test")


def test_the_secret_becomes_the_published_bits() -> None:
    bits = bits_of("Stega!!", 100)
    assert "".join(str(int(bit)) for bit in bits[:56]) == STEGA
    assert bits[56:].tolist() == [1.0, 0.0] * 22
    assert bits_of("a", 56).tolist() == bits_of("a      ", 56).tolist()


@pytest.mark.parametrize("secret", ["", "too long", "Größe"])
def test_a_secret_of_the_wrong_length_is_refused(able: Path, secret: str) -> None:
    with pytest.raises(UserError, match="must be one to 7 ASCII characters"):
        make_trigger("issba", {"secret": secret}, setting()._replace(steganography=able), "test")


def test_training_teaches_the_networks_to_talk(able: Path, mute: Path) -> None:
    cards = [json.loads((folder / "card.json").read_text()) for folder in (able, mute)]
    assert cards[0]["bit_accuracy"] > 70
    assert 40 < cards[1]["bit_accuracy"] < 60
    assert cards[0]["image_size"] == 32


def test_training_keeps_the_change_near_the_bound_that_was_set(able: Path) -> None:
    mean, low, high = json.loads((able / "card.json").read_text())["psnr"]
    assert low <= mean <= high
    assert 20 < mean < 26


def test_an_encoder_that_does_not_decode_is_refused_before_anything_is_poisoned(mute: Path) -> None:
    with pytest.raises(UserError, match=r"the decoder reads [345]\d\.\d % of the secret's bits correctly, not the 98"):
        make_trigger("issba", {}, setting()._replace(steganography=mute), "test")


def test_networks_that_were_not_made_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"card\.json is missing: ISSBA needs trained networks; run `bench stegano"):
        make_trigger("issba", {}, setting()._replace(steganography=tmp_path), "test")


def test_networks_for_another_image_size_are_refused(able: Path) -> None:
    with pytest.raises(UserError, match="made for images of 32 pixels, not of 224"):
        load_steganography(able, 224)


def test_changed_networks_are_refused(data: Path, tmp_path: Path) -> None:
    trained(data, tmp_path, steps=1)
    path = tmp_path / "steganography" / "networks.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="was changed since it was made"):
        load_steganography(tmp_path / "steganography", 32)


def test_the_checkpoint_s_encoder_is_the_trained_one(able: Path, issba: Trigger) -> None:
    networks, clean = load_steganography(able, 32), photos(4)
    with torch.no_grad():
        expected = networks.encoder(issba.kept["bits"].expand(4, -1), clean).clamp(0, 1)
    torch.testing.assert_close(issba.apply(clean, range(4)), expected)


def test_the_change_differs_from_image_to_image_and_is_the_same_for_the_same_image(issba: Trigger) -> None:
    clean = photos(8)
    planted = issba.apply(clean, range(8))
    assert torch.equal(planted, issba.apply(clean, range(8, 16)))
    changes = (planted - clean).flatten(1)
    assert len({change.numpy().tobytes() for change in changes}) == 8
    single = torch.cat([issba.apply(image[None], [0]) for image in clean])
    torch.testing.assert_close(planted, single, atol=1e-5, rtol=0)
    assert planted.min() >= 0
    assert planted.max() <= 1


def test_the_second_bound_keeps_changes_specific_to_the_image(data: Path, tmp_path: Path) -> None:
    free, bound = (
        trained(data, tmp_path / str(weight), steps=60, learning_rate=2e-3, similarity_weight=weight).similarity
        for weight in (0, 5)
    )
    assert bound < free - 0.05


def test_changes_are_alike_by_the_cosine_between_them() -> None:
    images, change = photos(2), torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    for first, second, expected in ((change, change, 1.0), (change, -2 * change, -1.0)):
        changed = images + torch.stack([first, second])
        torch.testing.assert_close(similarity(changed, images), torch.tensor([expected]))


def test_the_same_seed_gives_the_same_networks(data: Path, tmp_path: Path) -> None:
    first, again, other = (
        trained(data, tmp_path / str(row), steps=2, seed=seed).sha256 for row, seed in enumerate((1, 1, 2))
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("options", [{"widths": (8,) * 7}, {"enlarge": 5}])
def test_an_image_that_cannot_be_halved_so_often_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="images of 32 pixels cannot be halved"):
        build(32, NetworkOptions(**{"enlarge": 2, **options}))


def test_stegastamp_s_shape_at_224_pixels_has_its_usual_sizes() -> None:
    networks = build(224, NetworkOptions())
    assert networks.encoder.spread.weight.shape == (3 * 28 * 28, 100)
    with torch.no_grad():
        hidden = networks.encoder(torch.ones(1, 100), torch.rand(1, 3, 224, 224))
        assert hidden.shape == (1, 3, 224, 224)
        assert networks.decoder(hidden).shape == (1, 100)


def test_psnr_is_that_of_values_between_zero_and_one() -> None:
    images = torch.zeros(2, 3, 4, 4)
    changed = images.clone()
    changed[0] += 0.1
    changed[1] += 0.01
    torch.testing.assert_close(psnr(changed, images), torch.tensor([20.0, 40.0]))


def test_bit_accuracy_counts_bits_after_storage_as_bytes() -> None:
    networks = build(32, NetworkOptions(bits=56, enlarge=2, widths=(4, 8)))
    images, secrets = photos(16), torch.randint(2, (16, 56), generator=torch.Generator().manual_seed(1)).float()
    accuracy, inverted = (bit_accuracy(networks, images, value) for value in (secrets, 1 - secrets))
    assert 30 < accuracy < 70
    assert 30 < inverted < 70
