"""What users hand in: waveforms of any rate and channels, and guidance scales by stem."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from latent_diffusion.diffusion.guidance import Scale
from latent_diffusion.errors import ConfigError, DataError

Waveform = Tensor | np.ndarray
LOWEST_RATE = 100  # hz; below it is no sound, and one sample would become thousands
LOUDEST = 1e9  # times full scale: beyond it squares and their sums leave 32 bits
MOST_CHANNELS = 32  # a longer first axis than this and than the second is taken for the samples, by mistake


class ArraySource:
    """A waveform in memory as an `AudioSource`.

    Args:
        waveform: (samples,) or (channels, samples), numpy or torch, floating point.
        sample_rate: hz.
        name: for errors.

    Raises:
        DataError: it is empty, transposed, not floating point or not finite.
    """

    def __init__(self, waveform: Waveform, sample_rate: int, name: str):
        if isinstance(waveform, np.ndarray):  # torch knows neither negative strides nor foreign byte orders
            waveform = np.ascontiguousarray(waveform, dtype=waveform.dtype.newbyteorder("="))
        elif not isinstance(waveform, Tensor):
            raise DataError(f"{name}: found a {type(waveform).__name__}, expected a numpy array or torch tensor")
        x = torch.as_tensor(waveform)
        if not x.is_floating_point():
            raise DataError(f"{name}: found {x.dtype}, expected floating point numbers in [-1, 1]")
        if x.dim() == 2 and x.shape[0] > max(x.shape[1], MOST_CHANNELS):
            raise DataError(f"{name}: expected (channels, samples), found {tuple(x.shape)}; transpose it")
        if x.dim() not in (1, 2) or not x.numel():
            raise DataError(f"{name}: expected (samples,) or (channels, samples), found shape {tuple(x.shape)}")
        try:
            whole = LOWEST_RATE <= int(sample_rate) == sample_rate and not isinstance(sample_rate, bool | np.bool_)
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise DataError(f"{name}: expected a whole sample rate in hz, {LOWEST_RATE} or more, found {sample_rate!r}")
        if not bool(torch.isfinite(x).all()):
            raise DataError(f"{name}: contains values that are not finite")
        if float(x.detach().abs().max()) > LOUDEST:
            raise DataError(f"{name}: found samples up to {float(x.abs().max()):.3g}, expected numbers around [-1, 1]")
        self.waveform = x.detach().cpu().float().reshape(-1, x.shape[-1])
        self.sample_rate = int(sample_rate)
        self.channels, self.samples = self.waveform.shape

    def read(self, start: int, count: int) -> Tensor:
        """(channels, count)."""
        return self.waveform[:, start : start + count]


def resolve_guidance(scale: Scale | Mapping[str, float], stems: tuple[str, ...], default: float) -> Scale:
    """Guidance by name as one number a stem, in the model's order.

    Args:
        scale: a number, one number a stem, or {stem: number}.
        stems: the model's.
        default: for stems that are not named.

    Raises:
        ConfigError: a stem that the model does not have, or a number that is not finite.
    """
    numbers = np.asarray(list(scale.values()) if isinstance(scale, Mapping) else scale, dtype=float)
    if not np.isfinite(numbers).all():
        raise ConfigError(f"guidance scale: found {scale}, expected finite numbers")
    if not isinstance(scale, Mapping):
        return tuple(numbers.tolist()) if numbers.ndim else float(numbers)
    unknown = [name for name in scale if name not in stems]
    if unknown:
        raise ConfigError(f"guidance scale: {unknown[0]!r} is not one of the model's stems: {', '.join(stems)}")
    return tuple(float(scale.get(name, default)) for name in stems)
