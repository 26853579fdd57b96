"""How loud a waveform is, and what counts as silent."""

from __future__ import annotations

import math

from torch import Tensor

SILENCE_DBFS = -60.0  # RMS level under which a waveform in [-1, 1] is silent


def level_dbfs(waveform: Tensor) -> float:
    """RMS level of a waveform.

    Args:
        waveform: any shape, in [-1, 1].

    Returns:
        Level in dB relative to a constant of 1; `-inf` for digital silence or no samples.
    """
    power = float(waveform.detach().double().square().mean()) if waveform.numel() else 0.0
    return 10 * math.log10(power) if power > 0 else -math.inf


def is_silent(waveform: Tensor, silence_dbfs: float = SILENCE_DBFS) -> bool:
    """Whether the RMS level of `waveform` (any shape) is below `silence_dbfs`."""
    return level_dbfs(waveform) < silence_dbfs
