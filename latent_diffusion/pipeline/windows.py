"""Long inputs as windows."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def cut_windows(waveform: Tensor, window: int) -> Tensor:
    """Neighbouring windows of a waveform, the last one filled up with silence.

    Args:
        waveform: (..., samples).
        window: samples of a window (N).

    Returns:
        (..., W, N) with W = ceil(samples / N).
    """
    missing = -waveform.shape[-1] % window
    return rearrange(F.pad(waveform, (0, missing)), "... (w n) -> ... w n", n=window)


def join_windows(windows: Tensor, samples: int) -> Tensor:
    """Inverse of `cut_windows` for stems: (W, S, N) -> (S, samples)."""
    return rearrange(windows, "w s n -> s (w n)")[:, :samples]
