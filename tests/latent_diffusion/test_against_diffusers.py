"""Samplers, step by step, against an independent implementation: the schedulers of Hugging Face diffusers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from latent_diffusion.diffusion import NoiseSchedule, sample
from latent_diffusion.diffusion.samplers import UNIPC_ORDER, noise_levels
from latent_diffusion.diffusion.schedule import SPACINGS
from latent_diffusion.settings import DiffusionSettings

PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
SHAPE = (2, 3, 2, 4, 4)
TOLERANCE = 1e-4
START = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
NOISES = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(100 + i)) for i in range(50)]


class Network:
    """Guesses the clean latent as a bent function of what it sees, and says so in the schedule's terms."""

    def __init__(self, parameterization: str) -> None:
        self.schedule = NoiseSchedule(DiffusionSettings(parameterization=parameterization))

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        signal, sigma = self.schedule.signal_and_noise(t, z)
        z0 = torch.tanh(1.5 * z + 0.3) * signal + 0.2 * torch.sin(3 * z) * sigma
        return self.schedule.target(z0, (z - signal * z0) / sigma, t)

    def ours(self, sampler: str, steps: int, eta: float, spacing: str) -> Tensor:
        noises = iter(NOISES)
        return sample(
            self,
            SHAPE,
            self.schedule,
            sampler,
            steps,
            eta,
            z=START,
            step_noise=lambda: next(noises),
            spacing=spacing,
        )

    def theirs(self, scheduler: Any, noisy: bool = False, eta: float | None = None) -> Tensor:
        z, noises = START, iter(NOISES)
        for t in scheduler.timesteps:
            output = self(z, torch.full((len(z),), int(t)))
            extra = {"variance_noise": next(noises)} if noisy or eta else {}
            extra |= {} if eta is None else {"eta": eta}
            z = scheduler.step(output, int(t), z, **extra).prev_sample
        return z

    def options(self) -> dict[str, Any]:
        s = self.schedule.settings
        return {
            "beta_start": s.linear_start,
            "beta_end": s.linear_end,
            "beta_schedule": "scaled_linear",
            "prediction_type": PREDICTIONS[s.parameterization],
        }

    def at(self, scheduler: Any, steps: int, spacing: str) -> Any:
        """Their scheduler on our timesteps."""
        scheduler.set_timesteps(steps)
        levels = noise_levels(self.schedule, steps, spacing)
        scheduler.timesteps = torch.tensor([level.t for level in levels[:-1]])
        scheduler.sigmas = torch.tensor([level.sigma / level.signal for level in levels])
        return scheduler


@pytest.fixture(params=PREDICTIONS)
def network(request: pytest.FixtureRequest) -> Network:
    return Network(request.param)


def check(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [5, 20, 50])
def test_ddim(network: Network, steps: int, eta: float) -> None:
    their = DDIMScheduler(**network.options(), clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    their.set_timesteps(steps)
    assert their.timesteps.tolist() == network.schedule.timesteps(steps)[::-1]
    check(network.ours("ddim", steps, eta, "uniform"), network.theirs(their, eta=eta))


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_plms(steps: int) -> None:
    network = Network("eps")  # theirs treats the velocity of its first, doubled step differently
    their = PNDMScheduler(**network.options(), skip_prk_steps=True, steps_offset=1)
    their.set_timesteps(steps)
    check(network.ours("plms", steps, 0.0, "uniform"), network.theirs(their))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [3, 8, 20])
@pytest.mark.parametrize("kind", ["dpmsolver++", "sde-dpmsolver++"])
def test_dpm_solver(network: Network, kind: str, steps: int, spacing: str) -> None:
    options = {"algorithm_type": kind, "solver_order": 2, "lower_order_final": True, "euler_at_final": True}
    final = "sigma_min" if spacing == "uniform" else "zero"
    their = network.at(
        DPMSolverMultistepScheduler(**network.options(), **options, final_sigmas_type=final), steps, spacing
    )
    name, noisy = ("dpm++", False) if kind == "dpmsolver++" else ("dpm++sde", True)
    check(network.ours(name, steps, 1.0, spacing), network.theirs(their, noisy))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [3, 8, 20])
def test_unipc(network: Network, steps: int, spacing: str) -> None:
    final = "sigma_min" if spacing == "uniform" else "zero"
    their = UniPCMultistepScheduler(**network.options(), solver_order=UNIPC_ORDER, final_sigmas_type=final)
    check(network.ours("unipc", steps, 0.0, spacing), network.theirs(network.at(their, steps, spacing)))


def test_without_noise_the_sde_form_is_the_ode(network: Network) -> None:
    assert torch.equal(network.ours("dpm++sde", 8, 0.0, "logsnr"), network.ours("dpm++", 8, 1.0, "logsnr"))
    assert not torch.allclose(network.ours("dpm++sde", 8, 1.0, "logsnr"), network.ours("dpm++", 8, 1.0, "logsnr"))


def test_runs_end_where_they_say() -> None:
    schedule = NoiseSchedule()
    for spacing in SPACINGS:
        last = noise_levels(schedule, 10, spacing)[-1]
        assert (last.log_snr == math.inf) == (spacing != "uniform")
        assert last.abar == 1.0 or last.abar == float(schedule.alphas_cumprod[0])
