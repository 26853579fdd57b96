"""Classifier-free guidance (Ho and Salimans 2022) by the mixture or by a plan, on all of the schedule or on a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latent_diffusion.diffusion.samplers import Denoiser

Scale = float | Sequence[float]
Interval = tuple[float, float]  # parts of the schedule's timesteps, 0 (clean) to 1 (noise), both ends included
EVERYWHERE: Interval = (0.0, 1.0)


@dataclass(frozen=True)
class Condition:
    """What a network is told beside the noisy latents.

    Args:
        mixture: scaled latent of the mixture (B, C, T, F), or None.
        plan: beats, bars and chords (B, P, T), see `latent_diffusion.plan`, or None.
        given: stems that come without noise (S,), bool, or None; for networks with a noise level for each stem.
    """

    mixture: Tensor | None = None
    plan: Tensor | None = None
    given: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The same with `change` applied to what lies along time, its time axis being the last but one."""
        mixture = None if self.mixture is None else change(self.mixture)
        plan = None if self.plan is None else change(self.plan[..., None])[..., 0]
        return Condition(mixture, plan, self.given)

    def __call__(self, network: nn.Module, z: Tensor, t: Tensor) -> Tensor:
        """The network's output (B, S, C, T, F) at timesteps t (B,)."""
        if self.given is not None:
            t = torch.where(self.given, -1, t[:, None])
        return network(z, t, self.mixture) if self.plan is None else network(z, t, self.mixture, self.plan)


def guided_denoiser(
    network: nn.Module, condition: Condition, scale: Scale, interval: Interval = EVERYWHERE, timesteps: int = 1000
) -> Denoiser:
    """A denoiser e = e_uncond + s (e_cond - e_uncond) that runs only the branches that count.

    At scale 1 only the conditional network runs, at 0 only the unconditional one; otherwise both, as one batch. Outside
    the interval only the conditional network runs (Kynkaanniemi et al. 2024, arXiv 2404.07724). What guides is the
    mixture, or the plan where there is no mixture.

    Args:
        network: (z_t (B, S, C, T, F), t (B,), mixture or None) -> (B, S, C, T, F).
        condition: of the same batch; without mixture and plan the scale says nothing.
        scale: one number, or one number a stem (S,).
        interval: where on the schedule the scale counts.
        timesteps: of the schedule.

    Returns:
        Function (z_t, t) -> network output.
    """
    scales = torch.as_tensor(scale, dtype=torch.float32)
    by_mixture = condition.mixture is not None
    null = Condition(None, condition.plan if by_mixture else None, condition.given)
    if (not by_mixture and condition.plan is None) or bool((scales == 0).all()):
        return lambda z, t: null(network, z, t)
    if bool((scales == 1).all()):
        return lambda z, t: condition(network, z, t)

    def zeros_and(x: Tensor | None, guides: bool) -> Tensor | None:
        return None if x is None else torch.cat([torch.zeros_like(x) if guides else x, x])

    both = Condition(
        zeros_and(condition.mixture, by_mixture), zeros_and(condition.plan, not by_mixture), condition.given
    )

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        if interval != EVERYWHERE and not interval[0] <= float(t[0]) / (timesteps - 1) <= interval[1]:
            return condition(network, z, t)
        uncond, cond = both(network, z.repeat(2, 1, 1, 1, 1), t.repeat(2)).chunk(2)
        return uncond + scales.to(z).reshape(1, -1, 1, 1, 1) * (cond - uncond)

    return denoise
