"""The papers' scale: one step and one evaluation batch of each prompt defense with ViT-B/32 on two images of 224 px."""

import pytest
import torch

from bench.clip.defended import DefendedCLIP, Task
from bench.clip.model import build
from bench.clip.staged import StagedCLIP
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
    fap,
    fare,
    nap_tuning,
    r_adapt,
    r_adapt_m,
    r_adapt_plus,
    robust_weights,
    rvpt,
    tecoa,
    tga,
)
from bench.defenses.contract import Labelled
from bench.defenses.fitting import tuned_parameters

pytestmark = pytest.mark.usefixtures("seeded")

# They need some six gigabytes, so one process takes them all, one after the other.
LARGE = pytest.mark.xdist_group("large")
TUNED = {
    advpt: 16_384,
    advpt_v: 13_824,
    advpt_vli: 23_040,
    advpt_vlj: 3_555_072,
    nap_tuning: 37_774_592,
    fap: 3_557_120,
    apt: 8_192,
    advvp: 73_680,
    advvlp: 23_040,
    advmaple: 3_557_120,
    cba_fapt: 3_557_120,
    rvpt: 345_600,
    tecoa: 87_849_216,
    fare: 87_849_216,
    tga: 87_849_216,
    r_adapt: 0,
    r_adapt_plus: 38_400,
}


@pytest.mark.parametrize("module", TUNED, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_a_step_and_a_batch(module, vit_b_32):
    victim = DefendedCLIP(vit_b_32)
    data = Labelled(torch.rand(2, 3, 224, 224), torch.arange(2), Task(("cat", "golden retriever"), "a photo of a {}."))
    quick = {"epochs": 1} if module is rvpt else {"epochs": 1, "attack_steps": 1}
    options = module.Options(**{} if module is r_adapt else quick)
    tensors = module.fit(victim, data, options)
    assert tuned_parameters(module, tensors) == TUNED[module]
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    others = Task(("forest", "river", "sea"), "a centered satellite photo of {}.")
    with torch.no_grad():
        logits = module.load(tensors, victim, options).classifier(others)(data.images)
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits, victim.classifier(others)(data.images))


@pytest.fixture(scope="module")
def vit_l_14():
    """The largest of the papers' towers."""
    clip = build("ViT-L-14", seed=1)
    clip.model.requires_grad_(False)
    return DefendedCLIP(StagedCLIP(clip))


def one_photo():
    return Labelled(torch.rand(1, 3, 224, 224), torch.tensor([1]), Task(("cat", "dog"), "a photo of a {}."))


@LARGE
@pytest.mark.slow
@pytest.mark.parametrize("module", [tecoa, fare, tga], ids=["tecoa", "fare", "tga"])
def test_a_step_of_the_whole_tower_of_vit_l_14(module, vit_l_14):
    data = one_photo()
    # Without warm-up, or the only step would have a rate near 0.
    options = module.Options(epochs=1, attack_steps=1, optimizer="sgd", warmup_steps=0, learning_rate=1e-2)
    tensors = module.fit(vit_l_14, data, options)
    assert tuned_parameters(module, tensors) == 303_966_208
    before = vit_l_14.staged.visual.state_dict()
    # Loading would take another two gigabytes.
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert any(not torch.equal(tensor, before[name.removeprefix("tower.")]) for name, tensor in tensors.items())


@LARGE
@pytest.mark.slow
def test_anchors_of_vit_l_14(vit_l_14):
    """Of all three forms: one step on one image for the tuned one, and weights made elsewhere for the guided one."""
    data = one_photo()
    options = r_adapt_plus.Options(epochs=1, attack_steps=1)
    tensors = r_adapt_plus.fit(vit_l_14, data, options)
    assert tuned_parameters(r_adapt_plus, tensors) == 257 * 1024
    # Random weights of another seed.
    elsewhere = robust_weights.Options(weights="random")
    robust = robust_weights.load(robust_weights.fit(vit_l_14, None, elsewhere), vit_l_14, elsewhere)
    guided = r_adapt_m.load(r_adapt_m.fit(robust, None, r_adapt_m.Options()), robust, r_adapt_m.Options())
    free = r_adapt.load(r_adapt.fit(vit_l_14, None, r_adapt.Options()), vit_l_14, r_adapt.Options())
    plus = r_adapt_plus.load(tensors, vit_l_14, options)
    assert guided.staged is vit_l_14.staged
    with torch.no_grad():
        told = [model.classifier(data.task)(data.images) for model in (vit_l_14, free, guided, plus)]
    assert all(torch.isfinite(logits).all() for logits in told)
    assert all(not torch.equal(one, other) for place, one in enumerate(told) for other in told[:place])
