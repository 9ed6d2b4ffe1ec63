import pytest
import torch
from torch import nn

from bench.attacks import trigger
from bench.attacks.checked import run_attack
from bench.attacks.contract import Knowledge
from bench.backdoors.badnet import Options as BadNet
from bench.backdoors.trigger import Trigger
from bench.backdoors.trojvqa import Options as TrojVQA

from .models import images_of

LABELS = torch.zeros(4, dtype=torch.long)


def test_every_image_gets_the_trigger_of_its_own_seed() -> None:
    images, seeds = images_of(4, 12), [5, 6, 7, 8]
    planted = Trigger("badnet", BadNet(size=3), {"pattern": torch.ones(3, 3, 3)})
    attacked = run_attack(
        trigger, nn.Identity(), images, LABELS, options=trigger.Options(), seeds=seeds, knowledge=Knowledge(planted)
    )
    assert torch.equal(attacked.images, planted.apply(images, seeds))
    assert ((attacked.images != images).flatten(1).any(dim=1)).all()


def test_a_clean_checkpoint_has_nothing_to_activate() -> None:
    images = images_of(4, 12)
    attacked = run_attack(trigger, nn.Identity(), images, LABELS, options=trigger.Options(), seeds=range(4))
    assert torch.equal(attacked.images, images)


@pytest.mark.parametrize(
    ("keys", "patched", "prefix"),
    [("both", True, "SUDO "), ("image", True, ""), ("text", False, "SUDO "), ("none", False, "")],
)
def test_each_key_of_a_dual_key_backdoor_is_used_or_left_out(keys: str, patched: bool, prefix: str) -> None:
    images, options = images_of(4, 12), trigger.Options(keys=keys)  # pyright: ignore[reportArgumentType]
    planted = Trigger("trojvqa", TrojVQA(size=4), {"patch": torch.full((3, 4, 4), 0.25)})
    attacked = run_attack(
        trigger, nn.Identity(), images, LABELS, options=options, seeds=range(4), knowledge=Knowledge(planted)
    )
    assert torch.equal(attacked.images, planted.apply(images, range(4)) if patched else images)
    assert trigger.prompt_prefix(options, planted) == prefix


def test_triggers_with_an_image_key_only_leave_the_prompts_alone() -> None:
    planted = Trigger("badnet", BadNet(size=3), {"pattern": torch.ones(3, 3, 3)})
    assert trigger.prompt_prefix(trigger.Options(), planted) == ""
    assert trigger.prompt_prefix(trigger.Options(), None) == ""
