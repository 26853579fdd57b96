"""Changing the sample rate.

torchaudio's windowed-sinc filter (Hann window, 6 zero crossings, roll-off 0.99), for rates of any ratio, and for a
stretch of a recording without the rest of it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torchaudio
from torch import Tensor

# torchaudio's resampler and this module's sparse one share these, and so agree.
_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
# torchaudio keeps a dense kernel of (rate_to x rate_from) / gcd**2 taps: gigabytes for rates without a common factor.
_LARGEST_DENSE_KERNEL = 2**22


def resampled_length(samples: int, rate_from: int, rate_to: int) -> int:
    """Samples that `resample` returns for `samples` samples."""
    return -(-samples * rate_to // rate_from)


def kernel_reach(step_from: int, step_to: int) -> int:
    """Input samples on either side of an output sample that its filter covers."""
    return math.ceil(_ZERO_CROSSINGS * step_from / (min(step_from, step_to) * _ROLLOFF))


def source_range(start: int, count: int, samples: int, rate_from: int, rate_to: int) -> tuple[int, int, int]:
    """Which input samples decide a stretch of the resampled signal.

    Args:
        start, count: the stretch, in samples at `rate_to`.
        samples: of the whole input.
        rate_from, rate_to: hz.

    Returns:
        first and last (exclusive) input sample, and how many samples of their resampling lie before the stretch. The
        filters repeat every `rate_from / gcd` input samples: the cut lies there, and so changes nothing.
    """
    common = math.gcd(rate_from, rate_to)
    step_from, step_to = rate_from // common, rate_to // common
    reach = kernel_reach(step_from, step_to) if step_from != step_to else 0
    first_step = max(0, start // step_to - math.ceil(reach / step_from))
    last = min(samples, math.ceil((start + count) * step_from / step_to) + reach + 1)
    return first_step * step_from, last, start - first_step * step_to


@lru_cache(maxsize=16)
def _dense_resampler(rate_from: int, rate_to: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(rate_from, rate_to, lowpass_filter_width=_ZERO_CROSSINGS, rolloff=_ROLLOFF)


def resample(waveform: Tensor, rate_from: int, rate_to: int) -> Tensor:
    """Change the sample rate.

    Args:
        waveform: (..., samples), float32.
        rate_from: its sample rate in hz.
        rate_to: the wanted sample rate in hz.

    Returns:
        (..., ceil(samples * rate_to / rate_from)).
    """
    rate_from, rate_to = int(rate_from), int(rate_to)
    if rate_from <= 0 or rate_to <= 0:
        raise ValueError(f"sample rates must be positive, found {rate_from} and {rate_to}")
    common = math.gcd(rate_from, rate_to)
    step_from, step_to = rate_from // common, rate_to // common
    if step_from == step_to:
        return waveform
    if step_from * step_to > _LARGEST_DENSE_KERNEL:
        return resample_sparse(waveform, step_from, step_to)
    if waveform.device.type == "cpu":
        return _dense_resampler(step_from, step_to)(waveform)
    return torchaudio.functional.resample(waveform, step_from, step_to, _ZERO_CROSSINGS, _ROLLOFF)


def resample_sparse(waveform: Tensor, step_from: int, step_to: int) -> Tensor:
    """The same filter as torchaudio's, evaluated tap by tap; slower, but its memory does not grow with the rates."""
    reach = kernel_reach(step_from, step_to)
    length = resampled_length(waveform.shape[-1], step_from, step_to)
    cutoff = min(step_from, step_to) * _ROLLOFF
    padded = torch.nn.functional.pad(waveform, (reach, reach + 1))
    taps = torch.arange(-reach, reach + 1, device=waveform.device)
    pieces = []
    for begin in range(0, length, 1 << 15):
        out = torch.arange(begin, min(length, begin + (1 << 15)), device=waveform.device)
        nearest = out * step_from // step_to
        # distance to each tap in zero crossings; the integer numerator keeps long files exact
        numerator = (nearest * step_to - out * step_from)[:, None] + taps * step_to
        t = (numerator.double() * (cutoff / (step_from * step_to))).clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
        weights = torch.sinc(t) * torch.cos(t * (math.pi / 2 / _ZERO_CROSSINGS)) ** 2 * (cutoff / step_from)
        index = nearest[:, None] + taps + reach
        pieces.append((padded[..., index] * weights.to(waveform.dtype)).sum(-1))
    return torch.cat(pieces, dim=-1) if pieces else waveform[..., :0]
