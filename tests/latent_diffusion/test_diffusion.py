"""Schedule, samplers and guidance, held against what can be said in closed form.

The data of these tests is a Gaussian N(MEAN, STD^2), whose optimal denoiser and probability flow are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from latent_diffusion.diffusion import SAMPLERS, SPACINGS, NoiseSchedule, guided_denoiser, noise_levels, sample
from latent_diffusion.diffusion.guidance import Condition
from latent_diffusion.errors import ConfigError
from latent_diffusion.noise import generators
from latent_diffusion.settings import DiffusionSettings

PARAMETERIZATIONS = ("eps", "x0", "v")
MEAN, STD = 0.7, 0.4
SHAPE = (6, 3, 2, 20, 16)


def schedule_for(parameterization: str = "eps", timesteps: int = 1000) -> NoiseSchedule:
    return NoiseSchedule(DiffusionSettings(timesteps=timesteps, parameterization=parameterization))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gaussian_denoiser(schedule: NoiseSchedule) -> Callable[[Tensor, Tensor], Tensor]:
    """The optimal network for data N(MEAN, STD^2): the target at the posterior means of z0 and noise."""

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        signal, sigma = schedule.signal_and_noise(t, z)
        z0 = MEAN + signal * STD**2 / (signal**2 * STD**2 + sigma**2) * (z - signal * MEAN)
        return schedule.target(z0, (z - signal * z0) / sigma, t)

    return denoise


def probability_flow(schedule: NoiseSchedule, z: Tensor, steps: int, spacing: str) -> Tensor:
    """Where the ODE takes z from the first level of a run to the last: its standardised value stays the same."""
    levels = noise_levels(schedule, steps, spacing)
    (mean, std), (end_mean, end_std) = (
        (level.signal * MEAN, math.sqrt(level.abar * STD**2 + 1 - level.abar)) for level in (levels[0], levels[-1])
    )
    return end_mean + end_std * (z - mean) / std


def own_spacing(sampler: str) -> str:
    """Where a sampler's steps lie if nothing else is asked for."""
    return "logsnr" if sampler in ("dpm++", "dpm++sde", "unipc") else "uniform"


# ---- schedule


def test_every_step_count_gives_that_many_timesteps() -> None:
    schedule = schedule_for()
    for steps in range(1, 1001):
        found = schedule.timesteps(steps)
        assert len(set(found)) == len(found) == steps and found == sorted(found)
        assert found[0] >= 0 and found[-1] <= 999
        for spacing in SPACINGS[1:]:
            times = schedule.timesteps(steps, spacing)
            assert len(set(times)) == len(times) == steps and times == sorted(times)
            assert times[0] >= 0 and times[-1] == 999
        if 1000 % steps == 0 and steps < 1000:
            assert found == [c + 1 for c in range(0, 1000, 1000 // steps)]


def test_every_step_count_of_a_short_schedule() -> None:
    for total in (2, 3, 7, 30):
        schedule = schedule_for(timesteps=total)
        for steps in range(1, total + 1):
            for spacing in SPACINGS:
                found = schedule.timesteps(steps, spacing)
                assert len(set(found)) == steps and min(found) >= 0 and max(found) < total


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_step_counts_out_of_range(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"found {steps}, expected 1 to 1000"):
        sample(lambda z, t: z, (1, 1, 1, 2, 2), schedule_for(), steps=steps)


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="'euler', expected one of ddim, ddpm, plms, dpm"):
        sample(lambda z, t: z, (1, 1, 1, 2, 2), schedule_for(), sampler="euler")
    with pytest.raises(ConfigError, match="spacing: found 'even', expected one of uniform, trailing, logsnr, karras"):
        sample(lambda z, t: z, (1, 1, 1, 2, 2), schedule_for(), steps=3, spacing="even")
    with pytest.raises(ConfigError, match="parameterization: found 'score'"):
        schedule_for("score")


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_predictions_invert_the_target(parameterization: str) -> None:
    schedule = schedule_for(parameterization)
    t = torch.tensor([0, 1, 57, 400, 700, 999])
    z0, noise = random(*SHAPE), random(*SHAPE, seed=1)
    z_t = schedule.add_noise(z0, noise, t)
    output = schedule.target(z0, noise, t)
    signal, sigma = schedule.signal_and_noise(t, z0)
    # dividing by a small signal or sigma amplifies the rounding of float32: the error counts as it reaches z_t
    torch.testing.assert_close(schedule.predict_z0(z_t, output, t) * signal, z0 * signal, atol=2e-6, rtol=0)
    torch.testing.assert_close(schedule.predict_noise(z_t, output, t) * sigma, noise * sigma, atol=2e-6, rtol=0)


def test_noise_grows_to_almost_nothing_but_noise() -> None:
    abar = schedule_for().alphas_cumprod
    assert bool((abar.diff() < 0).all()) and float(abar[0]) == pytest.approx(1 - 0.0015)
    assert float(abar[-1]) < 3e-4
    z_t = schedule_for().add_noise(random(2000, 8), random(2000, 8, seed=1), torch.full((2000,), 400))
    assert float(z_t.std()) == pytest.approx(1.0, abs=0.03)  # variance preserving


# ---- samplers


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize(("sampler", "steps", "eta"), [("ddim", 500, 0), ("ddim", 500, 1), ("ddim", 500, 0.5)])
def test_ddim_reproduces_the_data(parameterization: str, sampler: str, steps: int, eta: float) -> None:
    check_moments(schedule_for(parameterization), sampler, steps, eta)


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("ddpm", 1000), ("ddpm", 500), ("plms", 40), ("dpm++", 20), ("dpm++sde", 100), ("unipc", 20)],
)
def test_samplers_reproduce_the_data(sampler: str, steps: int) -> None:
    check_moments(schedule_for("v"), sampler, steps, 1.0)


def check_moments(schedule: NoiseSchedule, sampler: str, steps: int, eta: float) -> None:
    shape = (8, 3, 4, 25, 16)  # 38 400 samples: standard errors 0.002 and 0.0015
    source = torch.Generator().manual_seed(3)
    z = sample(gaussian_denoiser(schedule), shape, schedule, sampler, steps, eta, noise=source)
    abar = noise_levels(schedule, steps, own_spacing(sampler))[-1].abar  # where a run ends
    assert float(z.mean()) == pytest.approx(math.sqrt(abar) * MEAN, abs=0.012)
    assert float(z.std()) == pytest.approx(math.sqrt(abar * STD**2 + 1 - abar), abs=0.015)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize(("sampler", "tolerance"), [("ddim", 2e-2), ("plms", 1e-3), ("dpm++", 1e-2), ("unipc", 1e-2)])
def test_deterministic_samplers_follow_the_probability_flow(
    sampler: str, tolerance: float, parameterization: str
) -> None:
    schedule, z = schedule_for(parameterization), random(*SHAPE)
    found = sample(gaussian_denoiser(schedule), SHAPE, schedule, sampler, 500, 0.0, z=z)
    expected = probability_flow(schedule, z, 500, own_spacing(sampler))
    assert float((found - expected).abs().max()) < tolerance


def test_few_steps() -> None:
    """Halving the step halves the error of DDIM; the multi-step samplers, spaced in log-SNR, need few steps."""
    schedule, z = schedule_for("v"), random(*SHAPE)

    def error(sampler: str, steps: int, spacing: str) -> float:
        found = sample(gaussian_denoiser(schedule), SHAPE, schedule, sampler, steps, 0.0, z=z, spacing=spacing)
        return float((found - probability_flow(schedule, z, steps, spacing)).abs().max())

    assert 1.7 < error("ddim", 250, "uniform") / error("ddim", 500, "uniform") < 2.3
    ddim = error("ddim", 20, "uniform")
    assert error("plms", 20, "uniform") < ddim / 3
    assert error("dpm++", 20, "logsnr") < ddim / 40 and error("unipc", 20, "logsnr") < ddim / 20
    assert error("dpm++", 10, "logsnr") > 4 * error("dpm++", 20, "logsnr")  # second order
    # on uniform timesteps the last steps are many times longer in log-SNR than those before
    assert error("dpm++", 20, "uniform") > 20 * error("dpm++", 20, "logsnr")


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 101, 999, 1000])
def test_every_step_count_runs(sampler: str, steps: int) -> None:
    schedule = schedule_for("v")
    called: list[int] = []
    denoise = gaussian_denoiser(schedule)

    def counting(z: Tensor, t: Tensor) -> Tensor:
        called.append(int(t[0]))
        return denoise(z, t)

    reports: list[tuple[int, int]] = []
    z = sample(
        counting,
        (2, 1, 1, 2, 2),
        schedule,
        sampler,
        steps,
        1.0,
        noise=torch.Generator().manual_seed(0),
        progress=lambda *report: reports.append(report),
    )
    assert bool(z.isfinite().all()) and float(z.abs().max()) < 10
    extra = int(sampler == "plms")  # its first step is a Heun step
    assert len(called) == steps + extra
    assert called[0] == schedule.timesteps(steps, own_spacing(sampler))[-1] and called == sorted(called, reverse=True)
    assert reports[-1] == (steps, steps) and [done for done, _ in reports] == sorted(done for done, _ in reports)


def test_ddpm_is_ddim_at_eta_1_and_eta_0_draws_nothing() -> None:
    schedule = schedule_for()
    denoise = gaussian_denoiser(schedule)

    def run(sampler: str, eta: float) -> tuple[Tensor, int]:
        drawn: list[int] = []

        def step_noise() -> Tensor:
            drawn.append(1)
            return random(2, 1, 1, 4, 4, seed=len(drawn))

        z = sample(denoise, (2, 1, 1, 4, 4), schedule, sampler, 10, eta, z=random(2, 1, 1, 4, 4), step_noise=step_noise)
        return z, len(drawn)

    (ancestral, drawn), (ddpm, _), (_, none) = run("ddim", 1.0), run("ddpm", 0.0), run("ddim", 0.0)
    assert torch.equal(ancestral, ddpm) and drawn == 10 and none == 0
    assert run("plms", 1.0)[1] == run("dpm++", 1.0)[1] == run("unipc", 1.0)[1] == 0
    assert run("dpm++sde", 1.0)[1] == 9 and run("dpm++sde", 0.0)[1] == 0  # its last step ends without noise


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_known_stems(sampler: str) -> None:
    """Before every network call known stems are the given latents at exactly that noise level."""
    schedule = schedule_for("v")
    denoise = gaussian_denoiser(schedule)
    known = random(2, 3, 2, 4, 4, seed=5)
    mask = torch.tensor([1.0, 0.0, 1.0]).reshape(1, 3, 1, 1, 1)
    seen: list[tuple[Tensor, Tensor]] = []
    noises = [random(2, 3, 2, 4, 4, seed=100 + i) for i in range(30)]

    def recording(z: Tensor, t: Tensor) -> Tensor:
        seen.append((z.clone(), t))
        return denoise(z, t)

    def run(latents: Tensor) -> Tensor:
        rest = iter(noises)
        return sample(
            recording,
            known.shape,
            schedule,
            sampler,
            20,
            0.0,
            known=latents,
            mask=mask,
            z=random(2, 3, 2, 4, 4, seed=6),
            known_noise=lambda: next(rest),
            step_noise=lambda: torch.zeros_like(known),
        )

    z = run(known)
    for (z_t, t), noise in zip(seen, noises, strict=False):
        expected = schedule.add_noise(known, noise, t)
        torch.testing.assert_close(z_t[:, [0, 2]], expected[:, [0, 2]], atol=1e-6, rtol=0)
        assert float((z_t[:, 1] - expected[:, 1]).abs().max()) > 0.1
    other = known.clone()
    other[:, 1] = 99.0  # latents of stems that are made are not looked at
    assert torch.equal(run(other), z)


def test_known_stems_come_back_and_the_rest_follows_the_model() -> None:
    schedule = schedule_for("v")

    def follow(z: Tensor, t: Tensor) -> Tensor:
        """Denoiser of a world in which stem 1 equals stem 0 and stem 0 is N(0, 1)."""
        signal, sigma = schedule.signal_and_noise(t, z)
        gain = signal / (2 * signal**2 + sigma**2)
        z0 = (gain * (z[:, :1] + z[:, 1:])).expand_as(z)
        return schedule.target(z0, (z - signal * z0) / sigma, t)

    known = random(4, 2, 4, 8, 8)
    mask = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1, 1)
    z = sample(follow, known.shape, schedule, "ddim", 200, 1.0, known, mask, noise=torch.Generator().manual_seed(0))
    assert float((z[:, 0] - known[:, 0]).abs().mean()) < 0.1
    correlation = torch.corrcoef(torch.stack([z[:, 1].flatten(), known[:, 0].flatten()]))[0, 1]
    assert float(correlation) > 0.9


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_item_does_not_depend_on_its_batch(sampler: str) -> None:
    schedule = schedule_for()
    denoise = gaussian_denoiser(schedule)
    known, mask = random(3, 2, 1, 4, 4, seed=9), torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1, 1)

    def run(items: list[int]) -> Tensor:
        sources = generators([70 + i for i in items])
        shape = (len(items), *known.shape[1:])
        return sample(denoise, shape, schedule, sampler, 12, 1.0, known[items], mask, sources)

    together = run([0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(run([i])[0], together[i], atol=1e-5, rtol=0)
    torch.testing.assert_close(run([2, 0])[1], together[0], atol=1e-5, rtol=0)
    assert float((together[0] - together[1]).abs().max()) > 0.1


# ---- guidance


class CountingNetwork(nn.Module):
    """(1 + condition) z, and a record of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, bool]] = []

    def forward(self, z: Tensor, t: Tensor, mixture: Tensor | None) -> Tensor:
        assert len(t) == len(z) and (mixture is None or len(mixture) == len(z))
        self.calls.append((len(z), mixture is not None))
        return z if mixture is None else z * (1 + mixture[:, None])


@pytest.mark.parametrize(
    ("scale", "call"),
    [
        (0, (3, False)),
        ([0.0, 0.0], (3, False)),
        (1, (3, True)),
        ([1, 1.0], (3, True)),
        (2.5, (6, True)),
        ([0.0, 1.0], (6, True)),
        ([3.0, 0.5], (6, True)),
    ],
)
def test_guidance(scale: float | list[float], call: tuple[int, bool]) -> None:
    network, z, mixture = CountingNetwork(), random(3, 2, 4, 5, 6), random(3, 4, 5, 6, seed=1)
    output = guided_denoiser(network, Condition(mixture), scale)(z, torch.tensor([3, 2, 1]))
    assert network.calls == [call]
    weight = torch.as_tensor(scale, dtype=torch.float32).reshape(1, -1, 1, 1, 1)
    torch.testing.assert_close(output, z * (1 + weight * mixture[:, None]))


def test_guidance_without_a_mixture() -> None:
    network, z = CountingNetwork(), random(3, 2, 4, 5, 6)
    assert torch.equal(guided_denoiser(network, Condition(None), 4.0)(z, torch.zeros(3)), z) and network.calls == [
        (3, False)
    ]


@pytest.mark.parametrize(
    ("t", "guided"), [(0, False), (199, False), (200, True), (600, True), (900, True), (999, False)]
)
def test_guidance_on_a_part_of_the_schedule(t: int, guided: bool) -> None:
    """Outside the interval one branch runs, the conditional one."""
    network, z, mixture = CountingNetwork(), random(3, 2, 4, 5, 6), random(3, 4, 5, 6, seed=1)
    output = guided_denoiser(network, Condition(mixture), 2.5, (0.2, 0.95))(z, torch.full((3,), t))
    assert network.calls == [(6 if guided else 3, True)]
    torch.testing.assert_close(output, z * (1 + (2.5 if guided else 1.0) * mixture[:, None]))
