import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.clip.classifier import predict, zero_shot
from bench.clip.model import Base, build, load, load_weights, normalise, save_weights, weights_hash
from bench.clip.staged import StagedCLIP
from bench.config import parse
from bench.datasets import world
from bench.errors import UserError


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to download ends in an error that is not a UserError."""

    def refuse(*_):
        raise AssertionError("tried to reach the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def base(architecture, weights):
    return Base(architecture=architecture, weights=str(weights))


@pytest.mark.parametrize(("wrong", "nearest"), [("ViT-B-23", "ViT-B-32"), ("minni", "mini")])
def test_an_unknown_architecture_names_the_nearest(wrong, nearest):
    with pytest.raises(UserError, match=f"unknown architecture '{wrong}'; did you mean '{nearest}'"):
        load(base(wrong, "random"))


def test_an_unknown_architecture_is_named_under_published_weights_too(no_network):
    with pytest.raises(UserError, match="unknown architecture 'ViT-B-23'; did you mean 'ViT-B-32'"):
        load(base("ViT-B-23", "openai"))


def test_an_unknown_weights_tag_names_the_nearest(no_network):
    with pytest.raises(UserError, match="unknown weights 'opena'; did you mean 'openai'"):
        load(base("ViT-B-32-quickgelu", "opena"))


def test_a_misspelt_shipped_is_set_right(no_network):
    with pytest.raises(UserError, match="did you mean 'shipped'"):
        load(base("mini", "shiped"))


@pytest.mark.parametrize("architecture", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_openai_weights_under_plain_gelu_are_refused_without_a_download(architecture, no_network):
    with pytest.raises(UserError, match=f"QuickGELU; use architecture '{architecture}-quickgelu' instead"):
        load(base(architecture, "openai"))


def test_weights_ship_for_small_models_only():
    with pytest.raises(UserError, match=r"only 'mini'.* with weights, not 'ViT-B-32'"):
        load(base("ViT-B-32", "shipped"))


def test_the_shipped_weights_tell_shapes_apart_that_they_never_saw():
    photos = world.captioned(60, 907)
    images = torch.from_numpy(photos.images).permute(0, 3, 1, 2).float() / 255
    classifier = zero_shot(StagedCLIP(load(base("mini", "shipped"))), world.SHAPES, "a photo of a {}.")
    labels = torch.tensor([scene.shape for scene in photos.scenes])
    assert (predict(classifier, images) == labels).float().mean() > 0.9


def test_resnet_is_refused_with_the_reason():
    with pytest.raises(UserError, match="'RN50' has no plain vision transformer"):
        load(base("RN50", "random"))


def test_resnet_is_refused_for_its_tower_under_published_weights_too(no_network):
    with pytest.raises(UserError, match="'RN50' has no plain vision transformer"):
        load(base("RN50", "openai"))


def test_a_weights_path_without_an_architecture_is_refused():
    with pytest.raises(UserError, match="base: architecture: Field required"):
        parse(Base, {"weights": "folder/weights.safetensors"}, "base")


def test_missing_weights_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(UserError, match=f"{path} is missing"):
        load(base("mini", path))


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(build("mini"), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load(base("mini", path))


def test_weights_of_another_architecture_are_refused_and_change_nothing(tmp_path, mini, vit_b_32):
    path = tmp_path / "weights.safetensors"
    save_weights(mini.clip, path)
    before = vit_b_32.clip.model.visual.conv1.weight.clone()
    with pytest.raises(UserError, match="does not hold a 'ViT-B-32'"):
        load_weights(vit_b_32.clip, path)
    assert torch.equal(vit_b_32.clip.model.visual.conv1.weight, before)


def test_weights_with_one_tensor_of_another_shape_are_refused_by_its_name(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(build("mini"), path)
    state = load_file(path)
    save_file({**state, "text_projection": state["text_projection"][:, :-1].contiguous()}, path)
    with pytest.raises(UserError, match="1 tensors differ, first 'text_projection'"):
        load(base("mini", path))


def test_saved_weights_come_back_unchanged(tmp_path):
    path, clip = tmp_path / "weights.safetensors", build("mini", seed=5)
    save_weights(clip, path)
    assert weights_hash(load(base("mini", path)).model) == weights_hash(clip.model)


def test_half_precision_weights_are_loaded_as_single_precision(tmp_path):
    path, clip = tmp_path / "weights.safetensors", build("mini", seed=5)
    save_weights(clip, path, torch.float16)
    assert all(tensor.dtype == torch.float16 for tensor in load_file(path).values())
    loaded = load(base("mini", path)).model.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in loaded.values())
    torch.testing.assert_close(loaded, dict(clip.model.state_dict()), atol=1e-3, rtol=1e-3)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, again, other = (weights_hash(build("mini", seed).model) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.usefixtures("seeded")
def test_building_a_model_leaves_the_global_random_stream_alone():
    expected = torch.rand(3)
    torch.manual_seed(0)
    build("mini", seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_a_built_model_is_in_evaluation_mode(mini, vit_b_32):
    assert not mini.clip.model.training
    assert not vit_b_32.clip.model.training


def test_image_size_mean_and_standard_deviation(mini, vit_b_32):
    assert (mini.clip.image_size, mini.clip.mean, mini.clip.std) == (32, (0.5,) * 3, (0.25,) * 3)
    assert vit_b_32.clip.image_size == 224
    assert vit_b_32.clip.mean == (0.48145466, 0.4578275, 0.40821073)
    assert vit_b_32.clip.std == (0.26862954, 0.26130258, 0.27577711)


def test_images_are_normalised_channel_by_channel(vit_b_32):
    images = torch.rand(2, 3, 4, 4)
    for channel in range(3):
        expected = (images[:, channel] - vit_b_32.clip.mean[channel]) / vit_b_32.clip.std[channel]
        torch.testing.assert_close(normalise(vit_b_32.clip, images)[:, channel], expected)


def test_a_random_paper_scale_model_starts_at_the_logit_scale_of_trained_ones(vit_b_32):
    assert vit_b_32.clip.model.logit_scale.exp().item() == pytest.approx(100)
