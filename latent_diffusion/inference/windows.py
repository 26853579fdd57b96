"""Long inputs as windows: cut side by side, or overlapping and blended.

Blending follows MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113, eq. 5): there is one long latent, and at every
denoising step the network's predictions for its overlapping windows are averaged. Neighbours therefore cannot
disagree, and what one window decides spreads to the next ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange
from torch import Tensor

from latent_diffusion.diffusion.guidance import Condition
from latent_diffusion.diffusion.samplers import Denoiser

# (windows (P, S, C, T, F), t (P,), their condition) -> network output (P, S, C, T, F)
WindowDenoiser = Callable[[Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True)
class Windows:
    """Overlapping windows on a time axis.

    Args:
        length: of the axis, at least `window`.
        window: length of each window.
        overlap: how much neighbours share, 0 to `window` - 1. The last window is moved back to end where the axis
            ends, so that it is full; it may share more.
    """

    length: int
    window: int
    overlap: int

    @cached_property
    def starts(self) -> list[int]:
        """Where each window begins."""
        last = self.length - self.window
        return [*range(0, last, self.window - self.overlap), last]

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def weights(self) -> Tensor:
        """How much each window counts at each of its places, (W, window); 1 in sum at every place of the axis."""
        place = torch.arange(self.window) + 0.5
        ramp = max(self.overlap, 1)
        taper = torch.sin(torch.pi / 2 * (torch.minimum(place, self.window - place) / ramp).clamp(max=1)) ** 2
        total = torch.zeros(self.length)
        for start in self.starts:
            total[start : start + self.window] += taper
        return torch.stack([taper / total[start : start + self.window] for start in self.starts])

    def scaled(self, factor: int) -> Windows:
        """The same windows on an axis that is `factor` times finer."""
        return Windows(self.length * factor, self.window * factor, self.overlap * factor)

    def cut(self, x: Tensor, axis: int = -2) -> Tensor:
        """The windows of (B, ..., length, ...) as (B, W, ..., window, ...); `axis` is the time axis, from the end."""
        return torch.stack([x.narrow(axis, start, self.window) for start in self.starts], dim=1)

    def blend(self, windows: Tensor, axis: int = -2) -> Tensor:
        """Weighted average of windows (B, W, ..., window, ...): (B, ..., length, ...)."""
        shape = [windows.shape[0], *windows.shape[2:]]
        shape[axis] = self.length
        blended = windows.new_zeros(shape)
        weights = self.weights.to(windows).reshape(len(self), -1, *[1] * (-1 - axis))
        for i, start in enumerate(self.starts):
            blended.narrow(axis, start, self.window).add_(weights[i] * windows[:, i])
        return blended


def blended_denoiser(
    denoise: WindowDenoiser,
    condition: Condition,
    windows: Windows,
    batch_size: int,
) -> Denoiser:
    """A denoiser over a long latent, out of one over windows.

    Args:
        denoise: predicts for some windows.
        condition: of the whole.
        windows: where on the time axis (T) the windows lie.
        batch_size: windows that are predicted at once.

    Returns:
        Function (z_t (B, S, C, T, F), t (B,)) -> weighted average of the windows' predictions, of z_t's shape.
    """
    conditions = condition.each(lambda x: rearrange(windows.cut(x), "b w ... -> (b w) ..."))

    def blended(z: Tensor, t: Tensor) -> Tensor:
        cut = rearrange(windows.cut(z), "b w ... -> (b w) ...")
        times = t.repeat_interleave(len(windows))
        outputs = []
        for start in range(0, len(cut), batch_size):
            part = slice(start, start + batch_size)
            outputs.append(denoise(cut[part], times[part], conditions.each(lambda x, part=part: x[part])))
        return windows.blend(rearrange(torch.cat(outputs), "(b w) ... -> b w ...", w=len(windows)))

    return blended
