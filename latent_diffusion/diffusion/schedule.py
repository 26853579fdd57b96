"""The forward process: how much noise at which step, and what the network's output means."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from latent_diffusion.errors import ConfigError
from latent_diffusion.settings import DiffusionSettings

SPACINGS = ("uniform", "trailing", "logsnr", "karras")
KARRAS_RHO = 7.0


class NoiseSchedule(nn.Module):
    """Variance-preserving diffusion with betas whose square roots are spaced linearly.

    z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise (Ho et al. 2020, eq. 4). The network's output is the noise (eps),
    the clean latent (x0) or the velocity sqrt(abar) noise - sqrt(1 - abar) z_0 (v; Salimans and Ho 2022).
    """

    def __init__(self, settings: DiffusionSettings | None = None):
        super().__init__()
        self.settings = s = settings or DiffusionSettings()
        roots = np.linspace(s.linear_start**0.5, s.linear_end**0.5, s.timesteps, dtype=np.float64)
        self._betas = roots**2
        abar = np.cumprod(1.0 - self._betas)
        with torch.device("cpu"):
            self.register_buffer("betas", torch.tensor(self._betas, dtype=torch.float32), persistent=False)
            self.register_buffer("alphas_cumprod", torch.tensor(abar, dtype=torch.float32), persistent=False)
            self.register_buffer("lvlb_weights", self._lvlb_weights(), persistent=False)

    @property
    def num_timesteps(self) -> int:
        """Steps of the forward process."""
        return self.settings.timesteps

    def signal_and_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), shaped to multiply `like`; t is (B,) or (B, S), -1 being without noise."""
        abar = torch.where(t < 0, 1.0, self.alphas_cumprod[t.clamp(min=0)])
        abar = abar.reshape(*t.shape, *[1] * (like.dim() - t.dim()))
        return abar.sqrt(), (1.0 - abar).sqrt()

    def add_noise(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """q(z_t | z_0): z0 and noise (B, S, ...), t (B,) or one for each stem (B, S), -1 for none -> (B, S, ...)."""
        signal, sigma = self.signal_and_noise(t, z0)
        return signal * z0 + sigma * noise

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is to output, shaped as z0."""
        if self.settings.parameterization == "eps":
            return noise
        if self.settings.parameterization == "x0":
            return z0
        signal, sigma = self.signal_and_noise(t, z0)
        return signal * noise - sigma * z0

    def predict_z0(self, z_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """Clean latent that the network's output implies."""
        signal, sigma = self.signal_and_noise(t, z_t)
        if self.settings.parameterization == "eps":
            return (z_t - sigma * output) / signal
        if self.settings.parameterization == "x0":
            return output
        return signal * z_t - sigma * output

    def predict_noise(self, z_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """Noise that the network's output implies."""
        signal, sigma = self.signal_and_noise(t, z_t)
        if self.settings.parameterization == "eps":
            return output
        if self.settings.parameterization == "x0":
            return (z_t - signal * output) / sigma
        return sigma * z_t + signal * output

    def timesteps(self, steps: int, spacing: str = "uniform") -> list[int]:
        """Ascending timesteps of a sampling run, exactly `steps` of them.

        Args:
            steps: 1 to the number of timesteps.
            spacing: a name from `SPACINGS`.
                uniform: the published one where `steps` divides the number of timesteps, 0, c, 2c, ... + 1 with
                    c = timesteps // steps; elsewhere the same rule with a fractional c.
                trailing: uniform, too, but counted from the last timestep, which it begins with (Lin et al. 2024,
                    arXiv 2305.08891).
                logsnr: uniform in log-SNR (Lu et al. 2022, arXiv 2206.00927).
                karras: uniform in the seventh root of sigma / signal (Karras et al. 2022, arXiv 2206.00364, eq. 5).

        Raises:
            ConfigError: steps out of range, or an unknown spacing.
        """
        total = self.num_timesteps
        if not 1 <= steps <= total:
            raise ConfigError(f"sampling steps: found {steps}, expected 1 to {total}")
        if spacing not in SPACINGS:
            raise ConfigError(f"spacing: found {spacing!r}, expected one of {', '.join(SPACINGS)}")
        if steps == total:
            return list(range(total))
        if spacing == "uniform":
            return [i * total // steps + 1 for i in range(steps)]
        if spacing == "trailing":
            return [total - 1 - i * total // steps for i in reversed(range(steps))]
        abar = np.cumprod(1.0 - self._betas)
        ratio = np.sqrt((1.0 - abar) / abar)  # sigma / signal, rising
        scale = np.log(ratio) if spacing == "logsnr" else ratio ** (1 / KARRAS_RHO)
        # the lowest level is one interval above t = 0, where the run would see next to no noise
        points = np.linspace(scale[0], scale[-1], steps + 1)[1:]
        return _distinct(np.interp(points, scale, np.arange(total)), total)

    def published_buffers(self) -> dict[str, Tensor]:
        """The schedule tensors that a published checkpoint carries, by name, float32 (timesteps,)."""
        betas = self._betas
        abar = np.cumprod(1.0 - betas)
        prev = np.append(1.0, abar[:-1])
        variance = betas * (1.0 - prev) / (1.0 - abar)
        arrays = {
            "betas": betas,
            "alphas_cumprod": abar,
            "alphas_cumprod_prev": prev,
            "sqrt_alphas_cumprod": np.sqrt(abar),
            "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - abar),
            "log_one_minus_alphas_cumprod": np.log(1.0 - abar),
            "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / abar),
            "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / abar - 1.0),
            "posterior_variance": variance,
            "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
            "posterior_mean_coef1": betas * np.sqrt(prev) / (1.0 - abar),
            "posterior_mean_coef2": (1.0 - prev) * np.sqrt(1.0 - betas) / (1.0 - abar),
        }
        return {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}

    def _lvlb_weights(self) -> Tensor:
        """Weights that turn per-step noise errors into the variational bound, (timesteps,); entry 0 repeats entry 1."""
        tables = self.published_buffers()
        betas, abar, variance = tables["betas"], tables["alphas_cumprod"], tables["posterior_variance"]
        alphas = torch.tensor(1.0 - self._betas, dtype=torch.float32)
        weights = betas**2 / (2 * variance * alphas * (1.0 - abar))  # in float32, as published
        weights[0] = weights[1]
        return weights


def _distinct(times: np.ndarray, total: int) -> list[int]:
    """Ascending times as integers from 0 to total - 1, each near its place and no two alike."""
    found = np.rint(times).astype(int)
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] + 1)
    for i in range(len(found)):  # what was pushed beyond the end goes back
        found[i] = min(found[i], total - len(found) + i)
    return found.tolist()
