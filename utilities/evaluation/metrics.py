"""How far an estimate is from its target, and what that means over a set of tracks.

The rules, in one place:

* **Silence.** A stem whose RMS level is below `SILENCE_DBFS` is silent. SI-SDR says nothing about a silent target, so
  its value there is `None`: it is counted as silent and left out of every mean. A silent estimate of a target that
  sounds is the worst there is and gets `FLOOR_DB`; every SI-SDR is clipped to [`FLOOR_DB`, `CEILING_DB`].
* **Never NaN.** An estimate with a value that is not finite (a model that diverged) has the value NaN; a `MetricTable`
  counts it as invalid, leaves it out of the mean, and writes only finite numbers.
* **log_mel_si_sdr as published** flattens the log-mels and removes no mean. It is kept for comparison and says little:
  the mean of log-mels dominates, so that the bare mixture scores about 10 dB and silence 8 dB. With `zero_mean=True`
  the means are removed first.
* **Averages** are plain means over items, dB values averaged in dB, as published; the 95 % confidence interval comes
  from resampling whole *tracks*, because windows of one track are not independent.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio, signal_distortion_ratio
from torchmetrics.functional.regression import mean_squared_error

from ..audio.levels import SILENCE_DBFS, is_silent
from ..files import whole_file

FLOOR_DB = -100.0  # SI-SDR of a silent estimate of a target that sounds
CEILING_DB = 100.0  # SI-SDR of an estimate that equals its target
_SDR_FILTER = 512  # taps of the distortion that SDR allows
_SDR_LOADING = 1e-10  # keeps the filter's equations solvable for pure tones; bounds SDR near CEILING_DB
_CONSTANT_STD = 1e-4  # a log-mel that varies less than this carries nothing but its mean


def log_mel_mse(estimate: Tensor, target: Tensor) -> float:
    """Mean squared difference of two natural log-mels of one shape, (T, M) for example, in nepers²."""
    return float(mean_squared_error(*_pair(estimate, target, torch.float64)))


def log_mel_si_sdr(estimate: Tensor, target: Tensor, zero_mean: bool = False) -> float | None:
    """SI-SDR of two flattened log-mels, as published or with their means removed.

    As published means: no mean removal, float32, and float32's machine epsilon added to numerators and denominators.

    Args:
        estimate, target: natural log-mels of one shape, (T, M) for example.
        zero_mean: remove each log-mel's mean first (see the module's notes).

    Returns:
        dB, clipped to [FLOOR_DB, CEILING_DB]. With `zero_mean`, `None` for a target that is constant (silence), and
        FLOOR_DB for a constant estimate of one that is not.

    Raises:
        ValueError: the shapes differ.

    Source: Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, equation 3.
    """
    estimate, target = _pair(estimate, target, torch.float32)
    if not bool(estimate.isfinite().all()):
        return math.nan
    if zero_mean:
        if float(target.std(unbiased=False)) < _CONSTANT_STD:
            return None
        if float(estimate.std(unbiased=False)) < _CONSTANT_STD:
            return FLOOR_DB
    return _clip_db(scale_invariant_signal_distortion_ratio(estimate, target, zero_mean=zero_mean))


def si_sdr(estimate: Tensor, target: Tensor, silence_dbfs: float = SILENCE_DBFS) -> float | None:
    """Scale-invariant signal-to-distortion ratio of two waveforms, means removed.

    Args:
        estimate, target: waveforms of one shape, (N,) or (channels, N), which is taken as one long signal.
        silence_dbfs: RMS level under which a waveform is silent.

    Returns:
        dB, clipped to [FLOOR_DB, CEILING_DB]; `None` for a silent target, FLOOR_DB for a silent estimate of a target
        that sounds, NaN for an estimate that is not finite.

    Raises:
        ValueError: the shapes differ.

    Source: Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, equation 3.
    """
    measure = partial(scale_invariant_signal_distortion_ratio, zero_mean=True)
    return _ratio(measure, *_pair(estimate, target, torch.float64), silence_dbfs)


def si_sdr_improvement(
    estimate: Tensor, target: Tensor, mixture: Tensor, silence_dbfs: float = SILENCE_DBFS
) -> float | None:
    """SI-SDR of the estimate minus that of the mixture (SI-SDRi); arguments and results are those of `si_sdr`."""
    ours, mixtures = (si_sdr(part, target, silence_dbfs) for part in (estimate, mixture))
    return None if ours is None or mixtures is None else ours - mixtures


def sdr(estimate: Tensor, target: Tensor, silence_dbfs: float = SILENCE_DBFS) -> float | None:
    """Signal-to-distortion ratio of BSSEval: any filter of 512 taps on the target does not count as distortion.

    Arguments and results are those of `si_sdr`, except that each channel has a filter of its own, and that the result
    is the mean over the channels whose target sounds.

    Source: Vincent, Gribonval and Févotte, "Performance measurement in blind audio source separation", IEEE TASLP 2006.
    """
    _pair(estimate, target, torch.float64)  # of one shape
    channels = zip(*(part.reshape(-1, part.shape[-1]) for part in (estimate, target)), strict=True)
    measure = partial(signal_distortion_ratio, filter_length=_SDR_FILTER, load_diag=_SDR_LOADING)
    found = [_ratio(measure, *_pair(*pair, torch.float64), silence_dbfs) for pair in channels]
    values = [value for value in found if value is not None]
    return _mean(values) if all(map(math.isfinite, values)) else math.nan


def _ratio(
    measure: Callable[[Tensor, Tensor], Tensor], estimate: Tensor, target: Tensor, silence_dbfs: float
) -> float | None:
    """A ratio of two waveforms (N,) in dB by the rules for silence and for values that are not finite."""
    # the level without the constant part: a constant offset is not a sound, and SI-SDR removes it
    if not target.numel() or is_silent(target - target.mean(), silence_dbfs):
        return None
    if not bool(estimate.isfinite().all()):
        return math.nan
    if is_silent(estimate - estimate.mean(), silence_dbfs):
        return FLOOR_DB
    value = measure(estimate, target)
    return CEILING_DB if bool(value.isnan()) else _clip_db(value)  # rounding puts a perfect SDR just beyond 1


def _pair(estimate: Tensor, target: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if estimate.shape != target.shape:
        raise ValueError(
            f"metrics need one shape: the estimate is {tuple(estimate.shape)}, the target {tuple(target.shape)}"
        )
    return estimate.detach().to("cpu", dtype).flatten(), target.detach().to("cpu", dtype).flatten()


def _clip_db(value: Tensor) -> float:
    return min(max(float(value), FLOOR_DB), CEILING_DB)


def track_of(item: str) -> str:
    """The track that an item `<track>_from_<second>` is a window of; other names are tracks themselves.

    A second may be followed by milliseconds (`_from_0_320`), by the number of a repeated name, and by `+<second>` of a
    chunk (chunks.py), which follows `_from_` in any case.
    """
    return re.sub(r"_from_(\d[\d_]*)?(\+[\d.e+]+)?$", "", item)


class MetricTable:
    """Collects one number for each item, stem and metric, and sums them up.

    Keeps numbers and never audio, so that thousands of clips take megabytes. Adding an item again replaces its value:
    the copies with which a distributed sampler fills the last batch count once.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], dict[str, float | None]] = {}

    def add(self, item: str, stem: str, metric: str, value: float | None) -> None:
        """Add a value: `None` stands for a silent target, and NaN or infinity count as invalid."""
        self._values.setdefault((stem, metric), {})[item] = value

    def merge(self, other: MetricTable) -> None:
        """Take over all values of another table (of another process)."""
        for key, values in other._values.items():
            self._values.setdefault(key, {}).update(values)

    @property
    def stems(self) -> list[str]:
        """The stems' names, in the order in which they came."""
        return list(dict.fromkeys(stem for stem, _ in self._values))

    @property
    def metrics(self) -> list[str]:
        """The metrics' names, in the order in which they came."""
        return list(dict.fromkeys(metric for _, metric in self._values))

    @property
    def items(self) -> list[str]:
        """The items' names, sorted."""
        return sorted({item for values in self._values.values() for item in values})

    def values(self, metric: str, stems: str | Iterable[str] | None = None) -> list[tuple[str, float | None]]:
        """(item, value) of a metric for one stem, several, or (`None`) all; sorted by stem and item."""
        names = self.stems if stems is None else [stems] if isinstance(stems, str) else list(stems)
        return [pair for stem in names for pair in sorted(self._values.get((stem, metric), {}).items())]

    def mean(self, metric: str, stems: str | Iterable[str] | None = None) -> float | None:
        """Mean over items (and stems) that have a value; `None` where none has."""
        return _mean([value for _, value in self.values(metric, stems) if _usable(value)])

    def where(self, keep: Callable[[str, str], bool]) -> MetricTable:
        """A new table of the entries for which `keep(item, stem)` is true."""
        chosen = MetricTable()
        for (stem, metric), values in self._values.items():
            for item, value in values.items():
                if keep(item, stem):
                    chosen.add(item, stem, metric, value)
        return chosen

    def minus(self, other: MetricTable) -> MetricTable:
        """Paired differences: this table's values minus the other's, for entries that both have.

        `None` where either is `None`, NaN where either is invalid.
        """
        difference = MetricTable()
        for (stem, metric), values in self._values.items():
            others = other._values.get((stem, metric), {})
            for item in values.keys() & others.keys():
                a, b = values[item], others[item]
                difference.add(item, stem, metric, None if a is None or b is None else a - b)
        return difference

    def rows(self) -> list[dict[str, Any]]:
        """One dict per item and stem: `track`, `item`, `stem` and each metric (`None` where silent or invalid)."""
        rows = []
        for item in self.items:
            for stem in self.stems:
                found = {
                    m: self._values[stem, m][item] for m in self.metrics if item in self._values.get((stem, m), {})
                }
                if found:
                    numbers = {m: found.get(m) if _usable(found.get(m)) else None for m in self.metrics}
                    rows.append({"track": track_of(item), "item": item, "stem": stem, **numbers})
        return rows

    def summary(
        self, stems: Iterable[str] | None = None, resamples: int = 1000, seed: int = 0
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """Sum up every stem, and all of them together.

        Args:
            stems: which stems, in this order; `None` for all.
            resamples: of the bootstrap.
            seed: of the bootstrap; the same seed gives the same interval.

        Returns:
            `{stem: {metric: {"mean", "ci95": [low, high], "count", "silent", "invalid", "tracks"}}}` with one more
            "stem", `"all"`. `mean` is `None` where nothing counts, `ci95` is `None` under two tracks.
        """
        names = self.stems if stems is None else list(stems)
        groups: dict[str, list[str]] = {name: [name] for name in names} | {"all": names}
        return {
            group: {
                metric: _sum_up(values, resamples, seed)
                for metric in self.metrics
                if (values := self.values(metric, members))
            }
            for group, members in groups.items()
        }


def _usable(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _sum_up(values: list[tuple[str, float | None]], resamples: int, seed: int) -> dict[str, Any]:
    usable = [(item, float(value)) for item, value in values if _usable(value)]
    silent = sum(value is None for _, value in values)
    by_track: dict[str, list[float]] = {}
    for item, value in usable:
        by_track.setdefault(track_of(item), []).append(value)
    return {
        "mean": _mean([value for _, value in usable]),
        "ci95": bootstrap_interval(list(by_track.values()), resamples, seed),
        "count": len(usable),
        "silent": silent,
        "invalid": len(values) - len(usable) - silent,
        "tracks": len(by_track),
    }


def bootstrap_interval(tracks: list[list[float]], resamples: int = 1000, seed: int = 0) -> list[float] | None:
    """95 % percentile interval of the mean over items, from resampling whole tracks with replacement.

    Args:
        tracks: the values of each track's items; no track empty.
        resamples: how many times.
        seed: of the resampling.

    Returns:
        [low, high], or `None` for fewer than two tracks, about which nothing can be said.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; clusters are the tracks.
    """
    if len(tracks) < 2:
        return None
    sums = np.array([math.fsum(track) for track in tracks])
    counts = np.array([len(track) for track in tracks])
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for start in range(0, resamples, 64):  # a block at a time: memory stays small with thousands of tracks
        stop = min(start + 64, resamples)
        drawn = generator.integers(len(tracks), size=(stop - start, len(tracks)))
        means[start:stop] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return [float(low), float(high)]


def write_metrics(path: str | os.PathLike[str], metrics: dict[str, Any]) -> None:
    """Write plain values as JSON, whole or not at all.

    Raises:
        ValueError: a number that is not finite.
        OSError: the file cannot be written.
    """
    text = json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
