"""What metrics are called on pages and in tables, and which way is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """How a metric is shown.

    Args:
        title: its name.
        unit: of its values.
        better: 1 if more is better, -1 if less is.
        meaning: what it is, in a few words.
    """

    title: str
    unit: str
    better: int
    meaning: str

    @property
    def tip(self) -> str:
        """Meaning and direction, for the heading of a column."""
        return f"{self.meaning} ({'more' if self.better > 0 else 'less'} is better)".strip()


LABELS = {
    "log_mel_mse": Label("Log-mel MSE", "nepers²", -1, "mean squared difference of the log-mel spectrograms"),
    "si_sdri": Label("SI-SDRi", "dB", 1, "SI-SDR minus the SI-SDR of the unprocessed mixture"),
    "msdm_si_sdri": Label("SI-SDRi, 4 s chunks", "dB", 1, "SI-SDRi of 4 s chunks in which at least two stems sound"),
    "si_sdr": Label("SI-SDR", "dB", 1, "scale-invariant signal-to-distortion ratio of the waveforms"),
    "sdr": Label("SDR", "dB", 1, "BSSEval's signal-to-distortion ratio: a filter of 512 taps is no distortion"),
    "log_mel_si_sdr_zero_mean": Label(
        "Log-mel SI-SDR, means removed", "dB", 1, "SI-SDR of the log-mel spectrograms without their means"
    ),
    "log_mel_si_sdr": Label(
        "Log-mel SI-SDR, as published",
        "dB",
        1,
        "says little: the means of log-mels dominate, so that the unprocessed mixture has about 10 dB and silence 8 dB",
    ),
    "log_mel_frechet": Label("Log-mel Fréchet", "", -1, "Fréchet distance of the model's log-mel frames"),
    "fad": Label("FAD", "", -1, "Fréchet audio distance"),
}


def label(metric: str) -> Label:
    """A metric's label; an unknown metric is shown under its own name, and more of it is taken as better."""
    return LABELS.get(metric, Label(metric, "", 1, ""))


def text_table(rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """Rows of cells as lines of text; the first `names` columns begin on the left, the others end on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [*[str.ljust] * names, *[str.rjust] * (len(widths) - names)]
    lines = ("  ".join(put(*cell) for put, *cell in zip(align, row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
