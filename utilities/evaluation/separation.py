"""Scores of separated stems, always beside those of the mixture taken as every stem."""

from __future__ import annotations

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


class SeparationScores:
    """Collects the scores of a model's stems and of the mixture as every stem."""

    def __init__(self) -> None:
        self.model = MetricTable()
        self.mixture = MetricTable()
        self.silent: set[tuple[str, str]] = set()  # (item, stem) with a silent target

    def add(
        self,
        item: str,
        stem: str,
        waveform: Tensor,
        target: Tensor,
        mixture: Tensor,
        log_mel: Tensor | None = None,
        target_log_mel: Tensor | None = None,
        mixture_log_mel: Tensor | None = None,
    ) -> None:
        """Score one stem of one item.

        Waveforms are (n,) or (channels, n), log-mels (T, M); the longer ones are cut to the shortest (a vocoder
        adds a few samples).

        Args:
            item, stem: names.
            waveform, target, mixture: the estimate, the true stem, and the mixture that was separated.
            log_mel, target_log_mel, mixture_log_mel: their log-mels; without them there are no log-mel scores.
        """
        samples = min(waveform.shape[-1], target.shape[-1], mixture.shape[-1])
        waveform, target, mixture = waveform[..., :samples], target[..., :samples], mixture[..., :samples]
        silent = is_silent(target - target.mean())
        if silent:
            self.silent.add((item, stem))
        ours, baseline = si_sdr(waveform, target), si_sdr(mixture, target)
        self.model.add(item, stem, "si_sdr", ours)
        self.model.add(item, stem, "si_sdri", None if ours is None or baseline is None else ours - baseline)
        self.model.add(item, stem, "sdr", sdr(waveform, target))
        self.mixture.add(item, stem, "si_sdr", baseline)
        self.mixture.add(item, stem, "sdr", sdr(mixture, target))
        if target_log_mel is None:
            return
        for table, estimate in ((self.model, log_mel), (self.mixture, mixture_log_mel)):
            if estimate is not None:
                frames = min(len(estimate), len(target_log_mel))
                pair = estimate[:frames], target_log_mel[:frames]
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
