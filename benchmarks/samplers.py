"""Errors of the samplers where the answer is known: the probability flow of a Gaussian, over steps and spacings.

    python -m benchmarks.samplers

The data are N(0.7, 0.4^2), whose optimal denoiser and flow are known. Prints the largest error of what a deterministic
run makes of 4000 values of noise. Takes seconds.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from latent_diffusion.diffusion import SPACINGS, NoiseSchedule, noise_levels, sample
from latent_diffusion.settings import DiffusionSettings

MEAN, STD = 0.7, 0.4
SAMPLERS = ("ddim", "plms", "dpm++", "unipc")


def error(schedule: NoiseSchedule, sampler: str, steps: int, spacing: str) -> float:
    """Largest difference between a run's end and that of the flow from the same noise."""
    z = torch.randn(1, 1, 1, 40, 100, generator=torch.Generator().manual_seed(0))

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        signal, sigma = schedule.signal_and_noise(t, z)
        z0 = MEAN + signal * STD**2 / (signal**2 * STD**2 + sigma**2) * (z - signal * MEAN)
        return schedule.target(z0, (z - signal * z0) / sigma, t)

    made = sample(denoise, z.shape, schedule, sampler, steps, 0.0, z=z, spacing=spacing)
    ends = noise_levels(schedule, steps, spacing)[::steps]
    (mean, std), (end, end_std) = ((a.signal * MEAN, math.sqrt(a.abar * STD**2 + 1 - a.abar)) for a in ends)
    return float((made - end - end_std * (z - mean) / std).abs().max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 8, 10, 15, 20, 50], metavar="N")
    options = parser.parse_args()
    schedule = NoiseSchedule(DiffusionSettings(parameterization="v"))
    ways = [(sampler, spacing) for sampler in SAMPLERS for spacing in SPACINGS]
    print("| sampler, spacing | " + " | ".join(f"{n} steps" for n in options.steps) + " |")
    print("|---" * (1 + len(options.steps)) + "|")
    for sampler, spacing in ways:
        errors = [error(schedule, sampler, n, spacing) for n in options.steps]
        print(f"| {sampler}, {spacing} | " + " | ".join(f"{e:.3f}" for e in errors) + " |")


if __name__ == "__main__":
    main()
