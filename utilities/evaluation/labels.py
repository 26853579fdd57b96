"""What metrics are called on pages and in tables, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """How a metric is shown.

    Args:
        title: its name.
        unit: of its values.
        better: 1 where more is better, -1 where less is.
        meaning: one sentence.
    """

    title: str
    unit: str
    better: int
    meaning: str


LABELS = {
    "log_mel_mse": Label("Log-mel MSE", "nepers²", -1, "mean squared difference of the log-mels: what is heard"),
    "si_sdri": Label("SI-SDRi", "dB", 1, "SI-SDR of the waveform, less the mixture's"),
    "msdm_si_sdri": Label("SI-SDRi, 4 s chunks", "dB", 1, "the same on 4 s chunks in which at least two stems sound"),
    "si_sdr": Label("SI-SDR", "dB", 1, "scale-invariant signal-to-distortion ratio of the waveform"),
    "sdr": Label("SDR", "dB", 1, "BSSEval's ratio: a filter of 512 taps is no distortion"),
    "log_mel_si_sdr_zero_mean": Label("Log-mel SI-SDR, means removed", "dB", 1, "SI-SDR of the flattened log-mels"),
    "log_mel_si_sdr": Label(
        "Log-mel SI-SDR, as published",
        "dB",
        1,
        "says little: the mean of log-mels dominates, so that the bare mixture has about 10 dB and silence 8 dB",
    ),
    "log_mel_frechet": Label("Log-mel Fréchet", "", -1, "Fréchet distance of the model's log-mel frames"),
    "fad": Label("FAD", "", -1, "Fréchet audio distance"),
}


def label(metric: str) -> Label:
    """A metric's label; one that is not known is shown under its own name, more being better."""
    return LABELS.get(metric, Label(metric, "", 1, ""))
