"""Cells: what is attacked, what is kept, what a killed run reuses, and what failures become."""

import time
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from bench.attacks.contract import Knowledge, Result
from bench.config import Options, Protocol
from bench.evaluation.adversary import Attacker
from bench.evaluation.compute import Scene, compute
from bench.evaluation.record import Cell, Identity
from bench.evaluation.store import Batch


class Brightness(nn.Module):
    """Two classes: dark (0) and bright (1)."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-brightness, brightness], dim=1)


@dataclass
class Inverting:
    """An attack file that turns images into their negatives and notes which it was given."""

    METRIC: str = "RA"
    given: list[int] = field(default_factory=list)

    def attack(self, model, images, labels, *, options, seeds, knowledge) -> Result:
        self.given += [seed % 1_000_003 for seed in seeds]
        return Result(1 - images, eps=None)

    __name__ = "bench.attacks.inverting"


def scene(module: Inverting, labels: list[int], batch_size: int = 2) -> Scene:
    # Dark and bright images in turn; a label that does not fit makes an image that is wrong from the start.
    images = torch.stack([torch.full((3, 4, 4), 0.2 + 0.6 * (row % 2)) for row in range(len(labels))])
    cell = Cell(
        checkpoint="c", defense="d", dataset="s", split="test", attack="inverting", threat_model="white_box", seed=1
    )
    identity = Identity(
        cell=cell, checkpoint="", artefact="", manifest="", attack="", attack_options={}, images=None,
        protocol=Protocol(version=1, batch_size=batch_size, seeds=(1,), shots=1),
    )  # fmt: skip
    rows = [10 * row for row in range(len(labels))]
    attacker = Attacker("inverting", module, Options())
    return Scene(identity, attacker, Brightness(), Knowledge(), images, torch.tensor(labels), rows, None, 7)


def test_only_images_that_are_right_are_attacked_and_wrong_ones_stay_wrong() -> None:
    module = Inverting()
    record = compute(scene(module, [0, 1, 1, 1, 0]), {}, lambda _: None)
    assert sorted(module.given) == [0, 10, 30, 40]
    assert (record.n, record.hits, record.value) == (5, 0, 0.0)
    assert record.outcome is not None
    assert record.outcome.rows == (0, 10, 20, 30, 40)
    assert record.tuned_parameters == 7


def test_clean_accuracy_is_counted_over_all_images() -> None:
    module = Inverting(METRIC="CA")
    record = compute(scene(module, [0, 1, 1, 1]), {}, lambda _: None)
    # Inverted: dark becomes bright, so only the image that was wrong is right now.
    assert (record.n, record.hits) == (4, 1)
    assert len(module.given) == 4


def test_finished_batches_are_not_attacked_again() -> None:
    first = Inverting()
    kept = list[Batch]()
    whole = compute(scene(first, [0, 1, 0, 1, 0]), {}, kept.append)
    assert [batch.rows for batch in kept] == [[0, 10], [20, 30], [40]]
    second = Inverting()
    resumed = compute(scene(second, [0, 1, 0, 1, 0]), {batch.rows[0]: batch for batch in kept[:2]}, lambda _: None)
    assert second.given == [40]
    assert resumed.outcome == whole.outcome
    assert (resumed.value, resumed.flags) == (whole.value, whole.flags)


def test_a_batch_cut_in_another_way_is_not_taken() -> None:
    module = Inverting()
    other = Batch([0, 10, 20], [1, 1, 1], [], 0, 0, 0.0)
    compute(scene(module, [0, 1, 0, 1]), {0: other}, lambda _: None)
    assert len(module.given) == 4


def test_passes_are_counted_per_attacked_image() -> None:
    class Twice(Inverting):
        def attack(self, model, images, labels, *, options, seeds, knowledge) -> Result:
            model(images), model(images)
            return Result(images, eps=0.0)

    record = compute(scene(Twice(), [0, 1, 1, 1]), {}, lambda _: None)
    assert record.cost is not None
    assert (record.cost.forwards, record.cost.backwards) == (2.0, 0.0)


class Quantised(Brightness):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images * 4).round() / 4)


class Saturated(Brightness):
    def forward(self, images: Tensor) -> Tensor:
        return 1e4 * super().forward(images)


class Randomised(Brightness):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + 0.1 * torch.randn_like(images))


@pytest.mark.parametrize(
    ("model", "check"),
    [(Quantised(), "quantised_input"), (Saturated(), "saturated_logits"), (Randomised(), "randomised")],
)
def test_a_model_that_masks_its_gradient_is_flagged_by_the_check_that_caught_it(model: nn.Module, check: str) -> None:
    masked = scene(Inverting(), [0, 1])._replace(model=model)
    assert check in compute(masked, {}, lambda _: None).flags
    assert check not in compute(scene(Inverting(), [0, 1]), {}, lambda _: None).flags


def test_a_cell_that_takes_too_long_is_given_up_and_keeps_what_it_has() -> None:
    class Slow(Inverting):
        def attack(self, model, images, labels, *, options, seeds, knowledge) -> Result:
            time.sleep(0.02)
            return super().attack(
                model, images, labels, options=options, seeds=seeds, knowledge=knowledge
            )  # fmt: skip

    kept = list[Batch]()
    slow = scene(Slow(), [0, 1, 0, 1, 0, 1])
    limited = slow._replace(attacker=slow.attacker._replace(cell_seconds=0.01))
    record = compute(limited, {}, kept.append)
    assert (record.state, record.value) == ("timeout", None)
    assert "2 of 6 images took longer than attacks.inverting.cell_seconds" in record.reason
    assert len(kept) == 1
    assert compute(slow, {kept[0].rows[0]: kept[0]}, kept.append).state == "done"
    assert [batch.rows for batch in kept] == [[0, 10], [20, 30], [40, 50]]


def test_no_image_right_is_a_result_and_not_a_crash() -> None:
    record = compute(scene(Inverting(), [1, 0]), {}, lambda _: None)
    assert (record.state, record.n, record.hits) == ("done", 2, 0)
