"""Shapley values: what each player adds to the worth of those before it, averaged over the orders of joining."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, permutations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bench.randomness import generator

Coalition = frozenset[int]
Floats = npt.NDArray[np.float64]
# 720 orders of 64 coalitions; the twelve heads of ViT-B/32 would have 4,096 coalitions.
_ALL_ORDERS = 6


class Shapley(NamedTuple):
    """Values of all players, and their standard errors over images and, if not every order was tried, over orders."""

    values: Floats
    errors: Floats


def orders_of(players: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """All orders of few players, else ``count`` random ones."""
    if players <= _ALL_ORDERS:
        return list(permutations(range(players)))
    stream = generator(seed)
    return [tuple(torch.randperm(players, generator=stream).tolist()) for _ in range(count)]


def prefixes(order: Sequence[int]) -> list[Coalition]:
    """The coalitions on the way from nobody to everybody."""
    return [frozenset(order[:size]) for size in range(len(order) + 1)]


def shapley(orders: Sequence[Sequence[int]], worth: Mapping[Coalition, Floats]) -> Shapley:
    """What each player adds to the worth of those before it, averaged over ``orders`` and images.

    Args:
        orders: As ``orders_of`` gives them.
        worth: Of every coalition on the way, for each image ``(n,)``.
    """
    added = np.empty((len(orders), len(orders[0]), len(worth[frozenset()])))
    for row, order in enumerate(orders):
        for player, (before, after) in zip(order, pairwise(prefixes(order)), strict=True):
            added[row, player] = worth[after] - worth[before]
    by_image, by_order = added.mean(axis=0), added.mean(axis=2)
    variances = by_image.var(axis=1) / by_image.shape[1]
    if len(orders[0]) > _ALL_ORDERS:
        variances += by_order.var(axis=0, ddof=1) / len(orders)
    return Shapley(by_image.mean(axis=1), np.sqrt(variances))
