import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers", reason="needs the packages of the group lvlm")

from transformers import CLIPVisionModel, LlamaModel, LlavaForConditionalGeneration

from bench.clip.model import Base, weights_hash
from bench.clip.model import load as load_clip
from bench.clip.staged import StagedCLIP, Trace
from bench.datasets import world
from bench.datasets.world_questions import NUMBERS, WORDINGS, questions
from bench.errors import UserError
from bench.files import sha256_of
from bench.lvlm.architecture import home, lvlm_architectures, read_architecture, vocabulary
from bench.lvlm.loading import build, load, load_weights, own_state, save_weights, with_tower
from bench.lvlm.model import Lvlm


def test_mini_llava_is_transformers_own_llava_of_about_a_million_trained_numbers(lvlm: Lvlm) -> None:
    assert type(lvlm.model) is LlavaForConditionalGeneration
    assert type(lvlm.model.model.vision_tower) is CLIPVisionModel
    assert type(lvlm.model.model.language_model) is LlamaModel
    assert len(lvlm.layers) == 6
    assert (lvlm.image_size, lvlm.image_tokens) == (32, 16)
    assert 0.9e6 < sum(tensor.numel() for tensor in own_state(lvlm).values()) < 1.2e6


def test_the_image_tower_is_the_mini_clips_block_for_block(lvlm: Lvlm, images: torch.Tensor) -> None:
    staged, trace = StagedCLIP(load_clip(Base(architecture="mini", weights="shipped"))), Trace(every_token=True)
    with torch.no_grad():
        staged.image(images, trace=trace)
        seen = lvlm.model.model.vision_tower(**lvlm.inputs(images), output_hidden_states=True).hidden_states
    assert len(seen) == 7
    for block, tokens in enumerate(trace.tokens, start=1):
        torch.testing.assert_close(seen[block], tokens, rtol=1e-4, atol=1e-4)


def test_the_decoder_reads_patch_tokens_of_the_last_but_one_block(lvlm: Lvlm, images: torch.Tensor) -> None:
    with torch.no_grad():
        seen = lvlm.model.model.vision_tower(**lvlm.inputs(images), output_hidden_states=True).hidden_states
        features = lvlm.model.get_image_features(**lvlm.inputs(images)).pooler_output
        expected = lvlm.model.model.multi_modal_projector(seen[5][:, 1:])
    assert torch.equal(torch.stack(list(features)), expected)
    assert expected.shape == (14, 16, 128)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_stream_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = (build("mini_llava", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert weights_hash(one.model) == weights_hash(same.model) != weights_hash(other.model)


def test_the_vocabulary_has_every_word_of_the_questions_and_none_twice() -> None:
    words = vocabulary("mini_llava")
    assert len(set(words)) == len(words)
    texts = [text for wordings in WORDINGS.values() for text in wordings]
    texts += [f"{one.text} {one.answer}" for one in questions(2000, 3)]
    used = {word for text in texts for word in re.findall("[a-z]+", re.sub(r"\{\w+\}", "", text))}
    named = {*world.SHAPES, *world.COLOURS, *world.BACKGROUNDS, *world.SIZES, *NUMBERS}
    assert used | named | {"you", "have", "been", "hacked", "lol"} <= set(words)


def test_weights_are_stored_without_the_borrowed_tower_and_come_back(tmp_path: Path) -> None:
    first, second = with_tower(build("mini_llava", 1)), with_tower(build("mini_llava", 2))
    save_weights(first, tmp_path / "weights.safetensors")
    assert not [name for name in load_file(tmp_path / "weights.safetensors") if "vision_tower" in name]
    load_weights(second, tmp_path / "weights.safetensors")
    assert weights_hash(first.model) == weights_hash(second.model)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, lvlm: Lvlm) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(UserError, match="is missing"):
        load_weights(lvlm, path)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_weights(lvlm, path)
    save_file({"lm_head.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(UserError, match="does not hold a 'mini_llava'"):
        load_weights(lvlm, path)


def test_unknown_names_are_told() -> None:
    with pytest.raises(UserError, match="unknown architecture 'mini_lava'; did you mean 'mini_llava'"):
        build("mini_lava")
    with pytest.raises(UserError, match="unknown weights 'hub'"):
        load(Base(architecture="mini_llava", weights="hub"))


def test_every_architecture_can_be_read() -> None:
    assert "mini_llava" in lvlm_architectures()
    for name in lvlm_architectures():
        assert read_architecture(name).text


def test_the_shipped_weights_are_those_of_their_card() -> None:
    folder = home() / "mini_llava"
    card = json.loads((folder / "card.json").read_text("utf-8"))
    assert card["sha256"] == sha256_of(folder / "weights.safetensors")
    shipped = load(Base(architecture="mini_llava", weights="shipped"))
    assert card["parameters"] == sum(tensor.numel() for tensor in own_state(shipped).values())
