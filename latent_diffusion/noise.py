"""Gaussian noise from an explicit source, so that every random number of a run can be named and repeated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

NoiseSource = Generator | Sequence[Generator] | Tensor | None


def randn(shape: Sequence[int], source: NoiseSource, like: Tensor) -> Tensor:
    """Unit Gaussian noise.

    Args:
        shape: (B, ...).
        source: a generator; or one generator an item, which makes an item's noise independent of the batch it is in;
            or the noise itself; or None for torch's global generator.
        like: gives dtype and device. Generators may live on the CPU whatever the device: the same seed then gives
            the same noise on every machine.

    Returns:
        Tensor of `shape`.
    """
    if source is None:
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    if isinstance(source, Tensor):
        return source.to(like).reshape(shape)
    if isinstance(source, Generator):
        return torch.randn(shape, generator=source, device=source.device, dtype=torch.float32).to(like)
    items = [torch.randn(shape[1:], generator=g, device=g.device, dtype=torch.float32) for g in source]
    return torch.stack(items).to(like).reshape(shape)


def generators(seeds: Sequence[int]) -> list[Generator]:
    """One CPU generator a seed."""
    return [Generator().manual_seed(int(seed) % 2**63) for seed in seeds]
