"""Scores of separated stems, always beside those of the mixture taken as every stem."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .metrics import (
    CEILING_DB,
    FLOOR_DB,
    SILENCE_DBFS,
    MetricTable,
    is_silent,
    log_mel_mse,
    log_mel_si_sdr,
    sdr,
    si_sdr,
)

NOTES = (
    "mixture_as_every_stem is the baseline: the scores that the unprocessed mixture gets in place of each stem. A stem "
    "has only been separated if its log_mel_mse is lower, and its SI-SDR higher, than the mixture's. "
    "model_minus_mixture is the paired difference.",
    "log_mel_si_sdr is as published: means are not removed. It says little, because the means of log-mels dominate: "
    "the unprocessed mixture has about 10 dB and silence 8 dB. Read log_mel_si_sdr_zero_mean and si_sdr instead.",
    "all: every stem of every item. sounding: without stems whose target is silent in that item. A silent target "
    f"(RMS level below {SILENCE_DBFS:g} dBFS) has no si_sdr, si_sdri, sdr or log_mel_si_sdr_zero_mean and is counted "
    f"as silent. A silent estimate of a target that sounds has {FLOOR_DB:g} dB. Values are clipped to {FLOOR_DB:g} .. "
    f"{CEILING_DB:g} dB.",
    "sdr is that of BSSEval: a filter of 512 taps on the target does not count as distortion. si_sdri is si_sdr minus "
    "the mixture's. All three compare phases; a vocoder invents phases, and so its sound is far below zero however "
    "good it is.",
    "msdm_si_sdri: si_sdri of chunks of 4 s that overlap by 2 s, without silent chunks and chunks in which only one "
    "stem sounds; see utilities/evaluation/chunks.py.",
    "ci95: percentile bootstrap over tracks; null if there are fewer than two. invalid: estimates with values that are "
    "not finite.",
)


@dataclass
class Side:
    """What was made of an item, or what it should have been.

    Args:
        stems: name -> waveform (N,) or (channels, N).
        mixture: waveform of the whole piece.
        log_mels: name -> log-mel (T, M), for those that have one.
        mixture_log_mel: (T, M).
    """

    stems: dict[str, Tensor] = field(default_factory=dict)
    mixture: Tensor | None = None
    log_mels: dict[str, Tensor] = field(default_factory=dict)
    mixture_log_mel: Tensor | None = None


class SeparationScores:
    """Collects the scores of a model's stems and of the mixture as every stem."""

    def __init__(self) -> None:
        self.model = MetricTable()
        self.mixture = MetricTable()
        self.silent: set[tuple[str, str]] = set()  # (item, stem) with a silent target

    def add(self, item: str, stem: str, result: Side, target: Side) -> None:
        """Score one stem of one item; what is longer is cut to the shortest (a vocoder adds a few samples).

        Args:
            item, stem: names.
            result: holds the estimate, and its log-mel if log-mels are to be scored.
            target: holds the true stem and the mixture that was separated, and the same of log-mels.
        """
        waves = result.stems[stem], target.stems[stem], target.mixture
        samples = min(wave.shape[-1] for wave in waves)
        waveform, truth, mixture = (wave[..., :samples] for wave in waves)
        silent = is_silent(truth - truth.mean())
        if silent:
            self.silent.add((item, stem))
        ours, baseline = si_sdr(waveform, truth), si_sdr(mixture, truth)
        self.model.add(item, stem, "si_sdr", ours)
        self.model.add(item, stem, "si_sdri", None if ours is None or baseline is None else ours - baseline)
        self.model.add(item, stem, "sdr", sdr(waveform, truth))
        self.mixture.add(item, stem, "si_sdr", baseline)
        self.mixture.add(item, stem, "sdr", sdr(mixture, truth))
        log_mel = target.log_mels.get(stem)
        for table, estimate in ((self.model, result.log_mels.get(stem)), (self.mixture, target.mixture_log_mel)):
            if estimate is not None and log_mel is not None:
                frames = min(len(estimate), len(log_mel))
                pair = estimate[:frames], log_mel[:frames]
                table.add(item, stem, "log_mel_mse", log_mel_mse(*pair))
                table.add(item, stem, "log_mel_si_sdr", log_mel_si_sdr(*pair))
                zero_mean = None if silent else log_mel_si_sdr(*pair, zero_mean=True)
                table.add(item, stem, "log_mel_si_sdr_zero_mean", zero_mean)

    def merge(self, other: SeparationScores) -> None:
        """Take over the scores of another process."""
        self.model.merge(other.model)
        self.mixture.merge(other.mixture)
        self.silent |= other.silent

    def summary(self, stems: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
        """Means, intervals and counts as plain values; see `MetricTable.summary` and NOTES.

        Args:
            stems: the stems' names in the order wanted.
            seed: of the bootstrap.
        """
        tables = {
            "model": self.model,
            "mixture_as_every_stem": self.mixture,
            "model_minus_mixture": self.model.minus(self.mixture),
        }
        return {name: self._groups(table, stems, seed) for name, table in tables.items()} | {"notes": list(NOTES)}

    def _groups(self, table: MetricTable, stems: tuple[str, ...], seed: int) -> dict[str, Any]:
        sounding = table.where(lambda item, stem: (item, stem) not in self.silent)
        return table.summary(stems, seed=seed) | {"sounding": sounding.summary(stems, seed=seed)["all"]}
