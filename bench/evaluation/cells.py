"""Which cells a suite asks for. Light: what collects results needs it without the models."""

from collections.abc import Iterator

from bench.config import Suite
from bench.evaluation.record import Cell


def cells_of(suite: Suite, track_name: str, defense: str, attack: str, limit: int | None = None) -> Iterator[Cell]:
    """The cells of one defense under one attack: its checkpoints, datasets, splits and seeds.

    Args:
        suite: The benchmark.
        track_name: Which track.
        defense: Id of the defense.
        attack: Id of the attack.
        limit: At most so many images per cell; the suite's own limit if not given.
    """
    plan = suite.tracks[track_name]
    for checkpoint in plan.checkpoints:
        for dataset in plan.datasets:
            for split in plan.splits:
                # An undefended model was not trained here, so one seed says all.
                seeds = suite.protocol.seeds[:1] if defense == suite.control else suite.protocol.seeds
                for seed in seeds:
                    yield Cell(
                        checkpoint=checkpoint,
                        defense=defense,
                        dataset=dataset,
                        split=split,
                        attack=attack,
                        threat_model=suite.attacks[attack].threat_model,
                        seed=seed,
                        limit=suite.limit if limit is None else limit,
                    )
