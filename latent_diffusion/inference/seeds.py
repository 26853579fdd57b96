"""Seeds of the results that are averaged, and of the windows of a piece.

There are two rules, because published results hang on both: an item of a data set has a seed of its own, which derives
from its name, while the windows of a user's piece all have theirs from the one seed that the user gives.
"""

from __future__ import annotations

from collections.abc import Sequence

STRIDE = 1_000_003  # a prime above the number of windows of any piece


def item_seeds(seeds: Sequence[int], average: int) -> list[int]:
    """Seeds of items (B,) for `average` results each, an item's side by side (B * average,)."""
    return [seed + STRIDE * copy for seed in seeds for copy in range(average)]


def piece_seeds(seed: int, first: int, count: int) -> list[int]:
    """Seeds of a piece's results number `first` to `first + count`, averaged ones counted one by one."""
    return [seed * STRIDE + first + i for i in range(count)]
