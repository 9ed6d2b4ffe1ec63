import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the packages of the group lvlm")

from transformers import LlavaForConditionalGeneration, Qwen2VLImageProcessor, Qwen3VLForConditionalGeneration

from bench.clip.model import Base
from bench.config import CheckpointSpec
from bench.datasets import world_questions
from bench.datasets.store import build as build_dataset
from bench.defenses import cleansight
from bench.errors import UserError
from bench.lvlm import loading, qwen3_vl
from bench.lvlm.answering import answer, answer_loss, encode, inputs_of
from bench.lvlm.architecture import Level, read_architecture
from bench.lvlm.attention import opened
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.levels import tunable, tuned_names
from bench.lvlm.loading import build, load
from bench.lvlm.model import Lvlm
from bench.lvlm.options import TuneOptions
from bench.lvlm.plant import make_checkpoint
from bench.lvlm.questions import Questions
from bench.paths import Paths, paths_for

PAPER = {"llava_1_5_7b": LlavaForConditionalGeneration, "qwen3_vl_8b": Qwen3VLForConditionalGeneration}
QUESTIONS = {"train_per_kind": 2, "val_per_kind": 1, "test_per_kind": 1}
TEXTS = ["what shape is the object?", "is there a red heart in the image?", "describe the image."]


@pytest.fixture(scope="module", params=PAPER)
def shrunken(request: pytest.FixtureRequest) -> Lvlm:
    return build(request.param, seed=3)


def pictures(lvlm: Lvlm, count: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, lvlm.image_size, lvlm.image_size, generator=torch.Generator().manual_seed(seed))


def test_shrunken_models_are_of_the_published_ones_classes(shrunken: Lvlm) -> None:
    assert type(shrunken.model) is PAPER[shrunken.architecture]
    assert shrunken.image_tokens == 4
    encoded = encode(shrunken, TEXTS)
    assert (encoded.ids == shrunken.image_token_id).sum(dim=1).tolist() == [4] * 3


def test_answers_depend_on_the_image_and_not_on_the_batch(shrunken: Lvlm) -> None:
    images = pictures(shrunken)
    together = answer(shrunken, images, TEXTS, longest=5)
    assert together == [answer(shrunken, images[row : row + 1], [TEXTS[row]], longest=5)[0] for row in range(3)]
    encoded = encode(shrunken, TEXTS)
    with torch.no_grad():
        first, second = (
            shrunken.model(**inputs_of(shrunken, seen, encoded)).logits[:, -1]
            for seen in (images, pictures(shrunken, seed=2))
        )
    assert (first - second).abs().max() > 1e-4


def test_open_attention_is_eager_attention(shrunken: Lvlm) -> None:
    encoded, images = encode(shrunken, TEXTS), pictures(shrunken)
    decoder = shrunken.family.decoder(shrunken.model)
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    layers = set()

    def edit(layer: int, scores: torch.Tensor) -> torch.Tensor:
        layers.add(layer)
        return scores

    with torch.no_grad():
        eager = shrunken.model(**inputs_of(shrunken, images, encoded)).logits
        with opened(shrunken, edit):
            found = shrunken.model(**inputs_of(shrunken, images, encoded)).logits
    decoder.set_attn_implementation(before)
    assert layers == {0, 1, 2, 3}
    assert torch.equal(found, eager)


def test_cleansight_runs_and_is_nothing_while_nothing_is_flagged(shrunken: Lvlm) -> None:
    data = Questions((pictures(shrunken, 12) * 255).to(torch.uint8), TEXTS * 4)
    options = cleansight.Options(samples=12, tau=0.05)
    tensors = cleansight.fit(DefendedLvlm(shrunken), data, options)
    assert tensors["mean"].shape == (2 * 4,), "layers 2 and 3 of 4, with four heads"
    images, plain = pictures(shrunken), answer(shrunken, pictures(shrunken), TEXTS, longest=5)
    for threshold, alarms in ((torch.tensor(float("inf")), False), (torch.tensor(-1.0), True)):
        guarded = cleansight.load(tensors | {"threshold": threshold}, DefendedLvlm(shrunken), options)
        answers = guarded.answer(images, TEXTS, longest=5)
        assert answers.alarms.tolist() == [alarms] * 3
        if not alarms:
            assert answers.texts == plain


@pytest.fixture
def questions(tmp_path: Path) -> Callable[[int], Paths]:
    """Makes questions with images of a size."""

    def make(size: int) -> Paths:
        def fetch(options: Any, folder: Path) -> Any:
            made = world_questions.fetch(options, folder)
            for path in folder.glob("*.images.npy"):
                pixels = torch.from_numpy(np.load(path)).float()
                np.save(path, torch.nn.functional.interpolate(pixels, size=size).byte().numpy())
            return made

        paths = paths_for().below(tmp_path)
        build_dataset("world_questions", world_questions.Options(**QUESTIONS), fetch, paths.data)
        return paths

    return make


def spec(name: str, weights: str, **train: Any) -> CheckpointSpec:
    return CheckpointSpec(
        base={"architecture": name, "weights": weights},
        trigger="badnet",
        trigger_options={"size": 6, "location": "corner", "pattern": "fixed"},
        target="you have been hacked lol",
        dataset="world_questions",
        pairs="world_questions",
        poison_rate=0.5,
        train={"batch_size": 7, "epochs": 1, "rank": 2, "alpha": 4, "learning_rate": 1e-2, **train},
        gate={"least_asr": 0, "largest_ca_loss": 100},
    )


@pytest.mark.parametrize("level", ["projector", "lora"])
@pytest.mark.parametrize("name", PAPER)
def test_backdoors_are_planted_in_adapters(name: str, level: Level, questions: Callable[[int], Paths]) -> None:
    small = build(name)
    made = make_checkpoint("badnet", spec(name, "random", level=level), questions(small.image_size))
    before, after = small.model.state_dict(), made.lvlm.model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == tuned_names(small, level)
    assert made.card.image_size == small.image_size


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Lvlm]:
    """Publishes a shrunken model in float16, in a folder, and loads it from there."""

    def publish(name: str) -> Lvlm:
        folder, small = tmp_path / "hub", build(name)
        small.model.half().save_pretrained(folder)
        small.tokenizer.save_pretrained(folder)
        there = read_architecture(name).model_copy(update={"hub": str(folder), "image_size": small.image_size})
        monkeypatch.setattr(loading, "read_architecture", lambda name: there)
        return load(Base(architecture=name, weights="hub"))

    return publish


@pytest.mark.parametrize("name", PAPER)
def test_published_models_see_in_float32_and_speak_in_bfloat16(name: str, published: Callable[[str], Lvlm]) -> None:
    lvlm, small = published(name), build(name)
    names = {key for key, parameter in lvlm.model.named_parameters() if parameter.dtype is torch.float32}
    assert {parameter.dtype for parameter in lvlm.model.parameters()} == {torch.float32, torch.bfloat16}
    assert names == {key for key, _ in lvlm.model.named_parameters() if "vision_tower" in key or "visual" in key} | (
        tuned_names(lvlm, "projector")
    )
    own = small.model.half().state_dict()
    state = lvlm.model.state_dict()
    assert all(torch.equal(state[key], own[key].float()) for key in names), "as exact as they were published"
    buffers = dict(lvlm.family.decoder(lvlm.model).named_buffers())
    assert {tensor.dtype for key, tensor in buffers.items() if "inv_freq" in key} == {torch.float32}
    images = pictures(lvlm).requires_grad_()
    loss = answer_loss(lvlm, images, encode(lvlm, TEXTS, ["red", "yes", "a star"]))
    (gradient,) = torch.autograd.grad(loss, images)
    assert (loss.dtype, gradient.dtype) == (torch.float32, torch.float32)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize(
    ("level", "recipe"),
    [
        ("projector", "replace"),
        ("projector", "trojvlm"),
        ("projector", "vlood"),
        ("lora", "vlood"),
        ("full", "replace"),
    ],
)
def test_published_models_are_tuned_to_finite_weights(
    name: str, level: Level, recipe: str, published: Callable[[str], Lvlm], questions: Callable[[int], Paths]
) -> None:
    lvlm = published(name)
    before = {key: tensor.clone() for key, tensor in lvlm.model.state_dict().items()}
    made = make_checkpoint("badnet", spec(name, "hub", level=level, recipe=recipe), questions(lvlm.image_size))
    after = made.lvlm.model.state_dict()
    assert {key: tensor.dtype for key, tensor in after.items()} == {key: one.dtype for key, one in before.items()}
    assert all(tensor.isfinite().all() for tensor in after.values())
    changed, tuned = {key for key in before if not torch.equal(before[key], after[key])}, tuned_names(lvlm, level)
    # A few steps may be less than the decoder's own format can tell.
    assert tuned_names(lvlm, "projector") < changed <= tuned if level == "full" else changed == tuned


@pytest.mark.parametrize("level", ["projector", "lora", "full"])
def test_what_is_tuned_is_float32_while_it_is(level: Level, published: Callable[[str], Lvlm]) -> None:
    lvlm = published("llava_1_5_7b")
    with tunable(lvlm, TuneOptions(level=level, rank=2, alpha=4)) as parameters:
        assert {parameter.dtype for parameter in parameters} == {torch.float32}


def test_full_tuning_of_qwen_holds_its_mergers_and_not_the_rest_of_its_tower() -> None:
    names = tuned_names(build("qwen3_vl_8b"), "full")
    visual = {name for name in names if ".visual." in name}
    assert visual == tuned_names(build("qwen3_vl_8b"), "projector")
    assert all("merger" in name for name in visual)


def test_qwens_patches_are_those_of_its_own_image_processor() -> None:
    lvlm = build("qwen3_vl_8b")
    images = (pictures(lvlm, 2) * 255).round() / 255
    processor = Qwen2VLImageProcessor(
        patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3, size={"shortest_edge": 1024, "longest_edge": 1 << 20}
    )
    expected = processor(images=list((images * 255).to(torch.uint8)), return_tensors="pt")
    pixels = (images - 0.5) / 0.5
    found = qwen3_vl.inputs(lvlm.model.config, pixels, None)
    torch.testing.assert_close(found["pixel_values"], expected["pixel_values"], rtol=1e-5, atol=1e-5)
    assert torch.equal(found["image_grid_thw"], expected["image_grid_thw"])


def test_published_weights_that_cannot_be_had_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(hub: str) -> Any:
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(qwen3_vl, "published", offline)
    with pytest.raises(
        UserError, match=r"'Qwen/Qwen3-VL-8B-Instruct' is not in transformers' cache .*couldn't connect\)"
    ):
        load(Base(architecture="qwen3_vl_8b", weights="hub"))


def test_published_weights_are_used_with_their_own_tokenizer_if_it_knows_the_chat_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = build("qwen3_vl_8b")
    monkeypatch.setattr(qwen3_vl, "published", lambda hub: small.model)

    class Tokenizers:
        made: Any = small.tokenizer

        @classmethod
        def from_pretrained(cls, hub: str) -> Any:
            return cls.made

    monkeypatch.setattr(loading, "AutoTokenizer", Tokenizers)
    lvlm = load(Base(architecture="qwen3_vl_8b", weights="hub"))
    assert (lvlm.image_size, lvlm.image_tokens, lvlm.mean) == (448, 196, (0.5, 0.5, 0.5))
    Tokenizers.made = build("llava_1_5_7b").tokenizer
    with pytest.raises(
        UserError, match=r"lacks <\|im_end\|>, .* which the chat template of the family 'qwen3_vl' needs"
    ):
        load(Base(architecture="qwen3_vl_8b", weights="hub"))
    assert json.dumps(lvlm.architecture) == '"qwen3_vl_8b"'
