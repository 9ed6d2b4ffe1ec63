"""Every attack on the device, called with images of the processor."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import autoattack
from bench.attacks.checked import run_attack
from bench.attacks.contract import Knowledge
from bench.evaluation.adversary import Mean
from bench.items import item_ids, load_item
from tests.attacks.models import Patches, cnn, images_of
from tests.backdoors.settings import made
from tests.pretend_device import DEVICE, pretending

SIDE, COUNT, CLASSES = 32, 4, 5
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ags": [{"steps": 2}],
    "autoattack": [{"eps": 0.1}],
    "autoattack_component": [
        {"eps": 0.1, "component": name} for name in ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
    ],
    "caption_pgd": [{"steps": 2}, {"steps": 2, "loss": "cross_entropy"}],
    "clean": [{}],
    "cw": [{"steps": 2}, {"steps": 2, "norm": "l2"}, {"steps": 2, "norm": "l2_clipped"}],
    "cwa": [{"steps": 2}, {"steps": 1, "variant": "ssa", "copies": 2}],
    "feature_attack": [{"steps": 2}],
    "pgd": [{"steps": 2}, {"steps": 2, "restarts": 2}],
    "trigger": [{}],
    "v_attack": [{"steps": 2}, {"steps": 2, "crop": 0.75}],
}
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack's parts take a few steps only."""
    whole = autoattack.build

    def build(*args: Any) -> Any:
        cascade = whole(*args)
        for part in (cascade.apgd, cascade.apgd_targeted, cascade.fab):
            part.n_iter = 3
        cascade.square.n_queries = 5
        return cascade

    monkeypatch.setattr(autoattack, "build", build)


def model_for(name: str) -> nn.Module:
    return Patches(CLASSES, SIDE // 2) if name == "v_attack" else cnn(CLASSES, SIDE)


def attacked(name: str, options: dict[str, Any], model: nn.Module) -> Tensor:
    module = load_item("attacks", name, "test")
    images = images_of(COUNT, SIDE)
    with torch.no_grad():
        labels = model(images.to(next(model.parameters()).device)).argmax(dim=1).cpu()
    if name == "v_attack":
        labels = torch.tensor([[row, row + 1] for row in range(COUNT)])
    knowledge = Knowledge(made("badnet", size=4), model, (model,))
    seen = Mean((model,)) if name == "cwa" else model
    found = run_attack(
        module, seen, images, labels, options=module.Options(**options), seeds=range(COUNT), knowledge=knowledge
    )
    return found.images


def test_every_attack_is_run_below() -> None:
    assert sorted(OPTIONS) == item_ids("attacks")


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_attack_runs_on_the_device_and_finds_what_it_finds_on_the_processor(
    name: str, options: dict[str, Any], computing: None, short: None
) -> None:
    expected = attacked(name, options, model_for(name))
    # AutoAttack draws on the device that it attacks on.
    own = name not in ("autoattack", "autoattack_component")
    with pretending(drawn=not own):
        found = attacked(name, options, model_for(name).to(DEVICE))
    assert found.device == torch.device("cpu")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
