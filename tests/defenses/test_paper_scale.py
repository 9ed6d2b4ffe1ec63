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
    rvpt,
    tecoa,
    tga,
)
from bench.defenses.contract import Labelled
from bench.defenses.fitting import tuned_parameters

pytestmark = pytest.mark.usefixtures("seeded")

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


def test_anchors_of_vit_l_14():
    """One step on one image with the largest of the papers' towers."""
    clip = build("ViT-L-14")
    clip.model.requires_grad_(False)
    victim = DefendedCLIP(StagedCLIP(clip))
    data = Labelled(torch.rand(1, 3, 224, 224), torch.tensor([1]), Task(("cat", "dog"), "a photo of a {}."))
    options = r_adapt_plus.Options(epochs=1, attack_steps=1)
    tensors = r_adapt_plus.fit(victim, data, options)
    assert tuned_parameters(r_adapt_plus, tensors) == 257 * 1024
    guided = r_adapt_m.load(tensors, victim.with_clip(clip), r_adapt_m.Options())
    logits = guided.classifier(data.task)(data.images)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits, victim.classifier(data.task)(data.images))
