"""What the defenses that tune prompts on adversarial images promise, whichever prompts they are."""

import pytest
import torch
from torch.nn import functional

from bench.defenses import (
    advmaple,
    advpt_v,
    advpt_vli,
    advpt_vlj,
    advvlp,
    advvp,
    apt,
    cba_fapt,
    fap,
    nap_tuning,
)
from bench.defenses.adversarial import adversarial_loss
from bench.defenses.prompting import Prompts

pytestmark = pytest.mark.usefixtures("seeded", "exact")

HALF = [advpt_v, advpt_vli, advpt_vlj]
WHOLE = [advvlp, advmaple]
LAYOUTS = [*HALF, *WHOLE, fap, cba_fapt]


def each(modules):
    return pytest.mark.parametrize("module", modules, ids=lambda module: module.__name__.rsplit(".", 1)[-1])


def settings(module, **changes):
    return module.Options(**{"epochs": 1, "batch_size": 8, "augment": False, "warmup_epochs": 0, **changes})


@each(HALF)
def test_settings_of_the_nap_baselines(module):
    options = module.Options()
    assert (options.learning_rate, options.epochs, options.batch_size, options.augment) == (0.0035, 100, 32, True)
    assert (options.length, options.depth, options.eps, options.step_size, options.attack_steps) == (2, 9, 1, 1, 2)
    assert (options.optimizer, options.weight_decay) == ("sgd", 5e-4)
    assert (options.warmup_epochs, options.warmup_rate) == (1, 1e-5)


@each(WHOLE)
def test_settings_of_the_fap_baselines(module):
    options = module.Options()
    assert (options.learning_rate, options.epochs, options.batch_size, options.augment) == (0.0035, 10, 4, False)
    assert (options.length, options.depth, options.eps, options.step_size, options.attack_steps) == (2, 9, 1, 1, 2)


@each([*HALF, *WHOLE])
def test_the_first_half_of_a_batch_stays_clean_or_none_of_it(module, recording, few):
    module.fit(recording, few, settings(module, eps=4.0))
    model, trained_on = recording.log[-1]
    attacked_from = 4 if module in HALF else 0
    distance = torch.cdist(trained_on.flatten(1), few.images.flatten(1), p=float("inf")).amin(dim=1) * 255
    assert len(trained_on) == 8
    assert (distance[:attacked_from] == 0).all()
    assert ((distance[attacked_from:] > 1) & (distance[attacked_from:] <= 4 + 1e-3)).all()
    assert model is not recording


@each(LAYOUTS)
def test_at_eps_0_a_step_is_one_of_clean_tuning(module, victim, few):
    options = settings(module, eps=0.0, learning_rate=1.0)
    torch.manual_seed(1)
    tuned = module.fit(victim, few, options)

    torch.manual_seed(1)
    prompts = Prompts(victim.staged, module.layout(options), few.task.template)
    model = prompts.apply_to(victim)
    times = 6 if module is cba_fapt else 1  # the clean and, five times, the adversarial cross-entropy
    loss = times * functional.cross_entropy(model.logits(few.images, model.texts(few.task)), few.labels)
    loss.backward()
    for name, parameter in prompts.named_parameters():
        expected = parameter.detach() - (parameter.grad + 5e-4 * parameter.detach())
        torch.testing.assert_close(tuned[name], expected, atol=2e-4, rtol=1e-3)


@each(LAYOUTS)
def test_every_tuned_tensor_is_trained(module, victim, few):
    options = settings(module, weight_decay=0.0, learning_rate=0.1)
    torch.manual_seed(1)
    start = Prompts(victim.staged, module.layout(options), few.task.template).tensors()
    torch.manual_seed(1)
    tuned = module.fit(victim, few, options)
    assert tuned.keys() == start.keys()
    assert [name for name, tensor in tuned.items() if torch.equal(tensor, start[name])] == []


# Learning rates that suit the mini CLIP.
RATES = {
    **{module: {"learning_rate": 0.02, "length": 4, "depth": 6} for module in LAYOUTS},
    fap: {"learning_rate": 0.05, "length": 4, "depth": 6},
    apt: {"learning_rate": 0.1, "context": 4},
    advvp: {"learning_rate": 2.0, "pad": 2, "tokens": 2},
    nap_tuning: {"learning_rate": 2e-3, "length": 4, "depth": 6, "weighting": "equal"},
}


@each(RATES)
def test_a_few_steps_lower_the_adversarial_loss(module, shipped, few):
    def loss(epochs):
        options = settings(module, epochs=epochs, eps=8.0, attack_steps=2, step=4.0, warmup_epochs=1, **RATES[module])
        torch.manual_seed(1)
        model = module.load(module.fit(shipped, few, options), shipped, options)
        torch.manual_seed(2)
        with torch.no_grad():
            texts = model.texts(few.task)
        return adversarial_loss(model, few.images, few.labels, texts, options).item()

    # The first epoch is the warm-up, at a rate that leaves the prompts where they were drawn.
    assert loss(12) < loss(1) - 0.1
