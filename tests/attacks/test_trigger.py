import torch
from torch import nn

from bench.attacks import trigger
from bench.attacks.checked import run_attack
from bench.attacks.contract import Knowledge
from bench.backdoors.trigger import draw_trigger

from .models import images_of

LABELS = torch.zeros(4, dtype=torch.long)


def test_every_image_gets_the_trigger_of_its_own_seed() -> None:
    images, seeds = images_of(4, 12), [5, 6, 7, 8]
    planted = draw_trigger("badnet", {"size": 3}, 12, seed=1, where="test")
    attacked = run_attack(
        trigger, nn.Identity(), images, LABELS, options=trigger.Options(), seeds=seeds, knowledge=Knowledge(planted)
    )
    assert torch.equal(attacked.images, planted.apply(images, seeds))
    assert ((attacked.images != images).flatten(1).any(dim=1)).all()


def test_a_clean_checkpoint_has_nothing_to_activate() -> None:
    images = images_of(4, 12)
    attacked = run_attack(trigger, nn.Identity(), images, LABELS, options=trigger.Options(), seeds=range(4))
    assert torch.equal(attacked.images, images)
