"""Frechet distances of two sets of feature vectors: do results sound like their kind, whatever they play.

On embeddings of waveforms it is the Frechet audio distance (FAD; Kilgour et al., Interspeech 2019), on log-mel frames
an offline relative of it. Vectors are never kept: only their sums and products, so that a thousand clips take the
memory of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDS = 16  # groups of tracks for the jackknife


class FrameStatistics:
    """Mean and covariance of feature vectors, gathered as they come, and the Frechet distance of two such sets."""

    def __init__(self) -> None:
        self.frames = 0
        self.items = 0
        self._sum: np.ndarray | None = None  # (D,)
        self._products: np.ndarray | None = None  # (D, D)

    def add(self, vectors: Tensor) -> None:
        """Add one item's vectors, (T, D); an item with values that are not finite is left out."""
        frames = vectors.detach().to("cpu", torch.float64).numpy()
        if np.isfinite(frames).all():
            self._take(frames.sum(axis=0), frames.T @ frames, len(frames), 1)

    def merge(self, other: FrameStatistics) -> None:
        """Take over the vectors of another set (of another process, or another stem)."""
        if other._sum is not None and other._products is not None:
            self._take(other._sum, other._products, other.frames, other.items)

    def _take(self, total: np.ndarray, products: np.ndarray, frames: int, items: int) -> None:
        self._sum = total if self._sum is None else self._sum + total
        self._products = products if self._products is None else self._products + products
        self.frames += frames
        self.items += items

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and unbiased covariance (D, D).

        Raises:
            ValueError: fewer than two vectors.
        """
        if self._sum is None or self._products is None or self.frames < 2:
            raise ValueError(f"a covariance needs at least two frames, found {self.frames}")
        mean = self._sum / self.frames
        return mean, (self._products - self.frames * np.outer(mean, mean)) / (self.frames - 1)

    def frechet_distance(self, other: FrameStatistics) -> float | None:
        """Frechet distance of the two normal distributions with these moments; `None` where a set is too small.

        |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)); the last trace is taken from the eigenvalues of the
        symmetric C1^(1/2) C2 C1^(1/2), which stay real where a covariance is singular.

        Source: Dowson and Landau, 1982, equation 4.
        """
        if self.frames < 2 or other.frames < 2:
            return None
        (mean_1, cov_1), (mean_2, cov_2) = self.moments(), other.moments()
        values, vectors = np.linalg.eigh(cov_1)
        root_1 = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        shared = np.sqrt(np.linalg.eigvalsh(root_1 @ cov_2 @ root_1).clip(min=0)).sum()
        distance = ((mean_1 - mean_2) ** 2).sum() + np.trace(cov_1) + np.trace(cov_2) - 2 * shared
        return max(float(distance), 0.0)


class FoldedStatistics:
    """`FrameStatistics` in `FOLDS` groups of tracks, so that each group can be left out."""

    def __init__(self) -> None:
        self.folds = [FrameStatistics() for _ in range(FOLDS)]

    def merge(self, other: FoldedStatistics) -> None:
        """Take over the vectors of another set, group by group."""
        for ours, theirs in zip(self.folds, other.folds, strict=True):
            ours.merge(theirs)

    def total(self, without: int | None = None) -> FrameStatistics:
        """All groups together, or all but one."""
        return _merged(fold for i, fold in enumerate(self.folds) if i != without)


class FrechetScores:
    """Frechet distances between results and references, for each group (a stem, "mixture") and all stems pooled.

    Args:
        name: of the distance in summaries: "fad" for example.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.results: dict[str, FoldedStatistics] = {}
        self.references: dict[str, FoldedStatistics] = {}
        self._fold: dict[str, int] = {}  # of each track, in the order in which they came

    def add(self, group: str, track: str, result: Tensor | None = None, reference: Tensor | None = None) -> None:
        """Add one item's vectors.

        Args:
            group: a stem's name, or "mixture".
            track: the track that the item is of; tracks are what the interval is over.
            result, reference: vectors (T, D) of either side or both; they need not belong together.
        """
        fold = self._fold.setdefault(track, len(self._fold) % FOLDS)
        for side, vectors in ((self.results, result), (self.references, reference)):
            folded = side.setdefault(group, FoldedStatistics())
            if vectors is not None:
                folded.folds[fold].add(vectors)

    def merge(self, other: FrechetScores) -> None:
        """Take over the vectors of another process."""
        for ours, theirs in ((self.results, other.results), (self.references, other.references)):
            for group, statistics in theirs.items():
                ours.setdefault(group, FoldedStatistics()).merge(statistics)
        for track in other._fold:
            self._fold.setdefault(track, len(self._fold) % FOLDS)

    def summary(self) -> dict[str, dict[str, Any]]:
        """`{group: {name, "ci95", "frames", "reference_frames", "items", "reference_items"}}`, plus group `"all"`.

        Items are those that counted: one with values that are not finite does not. The interval is that of a
        delete-a-group jackknife over tracks (1.96 standard errors; `None` under two tracks).

        Source: Shao and Tu, "The Jackknife and Bootstrap", 1995, section 2.3.
        """
        stems = [group for group in self.results if group != "mixture"]
        pooled = (FoldedStatistics(), FoldedStatistics())
        for stem in stems:
            pooled[0].merge(self.results[stem])
            pooled[1].merge(self.references[stem])
        pairs = {group: (self.results[group], self.references[group]) for group in self.results}
        if stems:
            pairs["all"] = pooled
        return {group: self._cell(*pair) for group, pair in pairs.items()}

    def _cell(self, results: FoldedStatistics, references: FoldedStatistics) -> dict[str, Any]:
        result, reference = results.total(), references.total()
        distance = result.frechet_distance(reference)
        return {
            self.name: distance,
            "ci95": None if distance is None else _jackknife(results, references, distance),
            "frames": result.frames,
            "reference_frames": reference.frames,
            "items": result.items,
            "reference_items": reference.items,
        }


def _merged(parts: Iterable[FrameStatistics]) -> FrameStatistics:
    total = FrameStatistics()
    for part in parts:
        total.merge(part)
    return total


def _jackknife(results: FoldedStatistics, references: FoldedStatistics, distance: float) -> list[float] | None:
    """distance +- 1.96 standard errors from leaving each group of tracks out; `None` for fewer than two groups."""
    filled = [g for g in range(FOLDS) if results.folds[g].frames or references.folds[g].frames]
    left_out = [results.total(g).frechet_distance(references.total(g)) for g in filled]
    values = [value for value in left_out if value is not None]
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    variance = (len(values) - 1) / len(values) * math.fsum((value - mean) ** 2 for value in values)
    error = 1.96 * math.sqrt(variance)
    return [max(distance - error, 0.0), distance + error]
