"""The Frechet distance of two sets of log-mel frames: do generated stems sound like their kind, whatever they play."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class FrameStatistics:
    """Mean and covariance of log-mel frames, gathered as they come, and the Frechet distance of two such sets."""

    def __init__(self) -> None:
        self.frames = 0
        self.items = 0
        self._sum: np.ndarray | None = None  # (M,)
        self._products: np.ndarray | None = None  # (M, M)

    def add(self, log_mel: Tensor) -> None:
        """Add one item's frames, (T, M); an item with values that are not finite is left out."""
        frames = log_mel.detach().to("cpu", torch.float64).numpy()
        if np.isfinite(frames).all():
            self._take(frames.sum(axis=0), frames.T @ frames, len(frames), 1)

    def merge(self, other: FrameStatistics) -> None:
        """Take over the frames of another set (of another process, or another stem)."""
        if other._sum is not None and other._products is not None:
            self._take(other._sum, other._products, other.frames, other.items)

    def _take(self, total: np.ndarray, products: np.ndarray, frames: int, items: int) -> None:
        self._sum = total if self._sum is None else self._sum + total
        self._products = products if self._products is None else self._products + products
        self.frames += frames
        self.items += items

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (M,) and unbiased covariance (M, M).

        Raises:
            ValueError: fewer than two frames.
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


class GenerationScores:
    """Log-mel Frechet distance between generated stems and the reference set's, a stem and all pooled."""

    def __init__(self) -> None:
        self.generated: dict[str, FrameStatistics] = {}
        self.reference: dict[str, FrameStatistics] = {}

    def add(self, stem: str, generated: Tensor, reference: Tensor) -> None:
        """Add one item's log-mels of a stem.

        Args:
            stem: the stem's name.
            generated, reference: natural log-mels (T, M); they need not belong together.
        """
        self.generated.setdefault(stem, FrameStatistics()).add(generated)
        self.reference.setdefault(stem, FrameStatistics()).add(reference)

    def merge(self, other: GenerationScores) -> None:
        """Take over the frames of another process."""
        for ours, theirs in ((self.generated, other.generated), (self.reference, other.reference)):
            for stem, statistics in theirs.items():
                ours.setdefault(stem, FrameStatistics()).merge(statistics)

    def summary(self) -> dict[str, dict[str, Any]]:
        """`{stem: {"log_mel_frechet", "frames", "reference_frames", "items", "reference_items"}}`, plus stem `"all"`.

        Items are those that counted: one with values that are not finite does not.
        """
        pooled = GenerationScores()
        for stem in self.generated:
            pooled.generated.setdefault("all", FrameStatistics()).merge(self.generated[stem])
            pooled.reference.setdefault("all", FrameStatistics()).merge(self.reference[stem])
        generated, reference = self.generated | pooled.generated, self.reference | pooled.reference
        return {
            stem: {
                "log_mel_frechet": generated[stem].frechet_distance(reference[stem]),
                "frames": generated[stem].frames,
                "reference_frames": reference[stem].frames,
                "items": generated[stem].items,
                "reference_items": reference[stem].items,
            }
            for stem in generated
        }

    def table(self) -> str:
        """The summary as lines of text."""
        rows = [f"{'stem':<12}{'log_mel_frechet':>16}{'frames':>10}"]
        for stem, values in self.summary().items():
            distance = values["log_mel_frechet"]
            rows.append(f"{stem:<12}{'-' if distance is None else f'{distance:.3f}':>16}{values['frames']:>10}")
        return "\n".join(rows)
