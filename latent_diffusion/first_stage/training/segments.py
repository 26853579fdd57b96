"""Choosing the pieces of a batch that a training step works on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

MASK_64 = 2**64 - 1


def step_generator(*numbers: int) -> Generator:
    """A CPU generator whose stream derives from the numbers (seed, step, rank ...) and nothing else.

    A run that was killed and resumed therefore draws what it would have drawn. Each number is mixed in by splitmix64
    (Steele, Lea and Flood 2014), because neighbouring seeds must not give related streams.
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & MASK_64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK_64
        state ^= state >> 31
    return Generator().manual_seed(state >> 1)


def segment_weights(
    waveforms: Tensor, hop: int, segment_frames: int, silence_db: float, silence_weight: float
) -> Tensor:
    """How likely each possible segment is to be drawn.

    Args:
        waveforms: (P, N).
        hop: samples of a mel frame.
        segment_frames: length of a segment in frames, L.
        silence_db: mean level in dB relative to full scale below which a segment counts as silent.
        silence_weight: weight of a silent segment; audible ones have 1.

    Returns:
        (P, N // hop - L + 1) on the CPU, for segments that start at each frame. All ones if all would be 0.
    """
    frames = waveforms.shape[-1] // hop
    energy = waveforms[:, : frames * hop].float().reshape(-1, frames, hop).square().mean(-1)
    level = F.avg_pool1d(energy[:, None], segment_frames, stride=1)[:, 0].cpu()
    weights = torch.where(level > 10 ** (silence_db / 10), 1.0, silence_weight)
    return weights if weights.any() else torch.ones_like(weights)


def draw_segments(weights: Tensor, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw segments by weight, each at most once where there are enough of them.

    Args:
        weights: (P, K), not all 0.
        count: how many.
        generator: on the CPU.

    Returns:
        Two (count,) integer tensors: the waveform and the start in frames of each segment.
    """
    flat = weights.flatten()
    replacement = count > int(flat.count_nonzero())
    chosen = torch.multinomial(flat, count, replacement=replacement, generator=generator)
    return chosen // weights.shape[1], chosen % weights.shape[1]


def cut(x: Tensor, items: Tensor, starts: Tensor, length: int) -> Tensor:
    """Pieces (K, length, ...) of x (P, N, ...) that begin at `starts` of rows `items`, both (K,)."""
    return torch.stack([x[i, a : a + length] for i, a in zip(items.tolist(), starts.tolist(), strict=True)])
