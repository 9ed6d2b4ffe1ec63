"""Tuned parameters at paper scale (ViT-B/32), against the counts of the papers and of the defenses' reference."""

import pytest
import torch

from bench.clip.defended import DefendedCLIP, Task
from bench.defenses import (
    advmaple,
    advpt,
    advpt_v,
    advpt_vli,
    advpt_vlj,
    advvlp,
    advvp,
    apt,
    cba_fapt,
    cleanclip,
    fap,
    linear_probe,
    nap_tuning,
    none,
    rvpt,
)
from bench.defenses.contract import Labelled
from bench.defenses.fitting import tuned_parameters
from bench.defenses.prompting import Prompts

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture(scope="module")
def base(vit_b_32):
    return DefendedCLIP(vit_b_32)


def two_images(class_names):
    return Labelled(torch.rand(2, 3, 224, 224), torch.arange(2), Task(tuple(class_names), "a photo of a {}."))


def test_cleanclip_tunes_everything(vit_b_32):
    everything = vit_b_32.clip.model.state_dict()
    assert tuned_parameters(cleanclip, everything) == 151_277_313
    assert sum(parameter.numel() for parameter in vit_b_32.clip.model.parameters()) == 151_277_313


def test_cleanclip_leaves_behind_one_tensor_for_each_of_the_models(victim, pairs):
    tensors = cleanclip.fit(victim, pairs, cleanclip.Options(epochs=1, pairs=2))
    shapes = {name: tensor.shape for name, tensor in victim.staged.clip.model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in tensors.items()} == shapes


@pytest.mark.parametrize(("classes", "expected"), [(1000, 513_000), (37, 18_981), (101, 51_813)])
def test_linear_probe_tunes_weights_and_biases(base, classes, expected):
    data = two_images(f"class {number}" for number in range(classes))
    tensors = linear_probe.fit(base, data, linear_probe.Options(epochs=1))
    assert tuned_parameters(linear_probe, tensors) == expected


def test_rvpt_tunes_nine_sets_of_prompts(base, vit_b_32):
    tensors = rvpt.fit(base, two_images(["cat", "dog"]), rvpt.Options(epochs=1))
    count = tuned_parameters(rvpt, tensors)
    assert count == 345_600
    assert sorted(tensors) == sorted(f"prompt.{layer}" for layer in range(4, 13))
    model = vit_b_32.clip.model
    without_words = sum(p.numel() for p in model.parameters()) - model.token_embedding.weight.numel()
    assert without_words == 125_980_417
    assert round(100 * count / without_words, 3) == 0.274


def test_advpt_tunes_32_context_vectors(base):
    options = advpt.Options(epochs=1, attack_steps=0)
    assert tuned_parameters(advpt, advpt.fit(base, two_images(["cat", "dog"]), options)) == 16_384


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 37_774_592),
        ({"refiner_layers": 0}, 245_760),
        ({"refine_text": False}, 37_774_592 - 11 * 1_050_112),
        ({"depth": 9}, 9 * 16 * (768 + 512) + 8 * (2_361_600 + 1_050_112)),
        ({"refine_first": True}, 41_186_304),
        ({"coupling": "text_to_image", "refine_text": False}, 30_803_712),
        ({"coupling": "text_to_image", "refiner_layers": 0}, 4_826_112),
        ({"image_length": 2, "refiner_layers": 0}, 12 * (16 * 512 + 2 * 768)),
    ],
)
def test_nap_tuning_tunes_prompts_and_refiners_of_both_towers(vit_b_32, changes, expected):
    augmentor = nap_tuning.Augmentor(vit_b_32, nap_tuning.Options(**changes))
    assert tuned_parameters(nap_tuning, augmentor.state_dict()) == expected
    assert sum(parameter.numel() for parameter in augmentor.parameters()) == expected


@pytest.mark.parametrize(
    ("module", "changes", "expected"),
    [
        (advpt_v, {}, 13_824),
        (advpt_vli, {}, 23_040),
        (advvlp, {}, 23_040),
        (advpt_vlj, {}, 3_555_072),
        (fap, {}, 3_557_120),
        (advmaple, {}, 3_557_120),
        (cba_fapt, {}, 3_557_120),
        (cba_fapt, {"coupling": "image_to_text"}, 3_557_376),
    ],
)
def test_prompts_and_projections(vit_b_32, module, changes, expected):
    prompts = Prompts(vit_b_32, module.layout(module.Options(**changes)))
    assert tuned_parameters(module, prompts.tensors()) == expected
    assert sum(parameter.numel() for parameter in prompts.parameters()) == expected


@pytest.mark.parametrize(("tokens", "expected"), [(5, 73_680), (100, 146_640)])
def test_advvp_tunes_a_border_and_tokens(vit_b_32, tokens, expected):
    prompt = advvp.VisualPrompt(vit_b_32, advvp.Options(tokens=tokens))
    assert tuned_parameters(advvp, prompt.state_dict()) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, 8_192), ({"context": 1}, 512), ({"class_specific": True}, 2 * 16 * 512)],
)
def test_apt_tunes_a_context(base, changes, expected):
    options = apt.Options(epochs=1, attack_steps=0, augment=False, **changes)
    assert tuned_parameters(apt, apt.fit(base, two_images(["cat", "dog"]), options)) == expected


@pytest.mark.parametrize(("width", "expected"), [(768, 2_361_600), (512, 1_050_112)])
def test_size_of_one_refiner(width, expected):
    refiner = nap_tuning.Refiner(width, nap_tuning.Options())
    assert sum(parameter.numel() for parameter in refiner.parameters()) == expected


def test_no_defense_tunes_nothing(victim):
    assert tuned_parameters(none, none.fit(victim, None, none.Options())) == 0
