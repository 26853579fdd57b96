"""The reverse process: one sampling loop, and samplers as short free functions.

A sampler is `f(predict, z, levels, *, eta, randn) -> z`. `levels` are the noise levels from most to least noisy, the
last being where the run ends. `predict(z, level)` gives back (z, z0, noise): the state it looked at, in which known
stems have been replaced, the clean latent it implies and the noise it implies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latent_diffusion.diffusion.schedule import NoiseSchedule
from latent_diffusion.errors import ConfigError
from latent_diffusion.noise import NoiseSource, randn

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (z_t (B, S, C, T, F), t (B,)) -> network output, same shape
Progress = Callable[[int, int], None]  # (steps done, steps in all)


@dataclass(frozen=True)
class NoiseLevel:
    """A point of the schedule: timestep t and abar_t, in double precision."""

    t: int
    abar: float

    @property
    def signal(self) -> float:
        """sqrt(abar)."""
        return math.sqrt(self.abar)

    @property
    def sigma(self) -> float:
        """sqrt(1 - abar)."""
        return math.sqrt(1.0 - self.abar)

    @property
    def log_snr(self) -> float:
        """Half the log signal-to-noise ratio, log(signal / sigma): the lambda of DPM-Solver; infinite without noise."""
        return math.log(self.signal / self.sigma) if self.abar < 1 else math.inf


Predict = Callable[[Tensor, NoiseLevel], tuple[Tensor, Tensor, Tensor]]
RandN = Callable[[], Tensor]


def sample_ddim(predict: Predict, z: Tensor, levels: Sequence[NoiseLevel], *, eta: float, randn: RandN) -> Tensor:
    """DDIM (Song, Meng and Ermon 2021, eq. 12 and 16). eta 0 is deterministic, eta 1 ancestral sampling."""
    for now, then in zip(levels, levels[1:], strict=False):
        z, z0, noise = predict(z, now)
        sigma = eta * math.sqrt((1 - then.abar) / (1 - now.abar) * (1 - now.abar / then.abar))
        z = then.signal * z0 + math.sqrt(max(1 - then.abar - sigma**2, 0.0)) * noise
        if sigma > 0:
            z = z + sigma * randn()
    return z


def sample_ddpm(predict: Predict, z: Tensor, levels: Sequence[NoiseLevel], *, eta: float, randn: RandN) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) on any subset of the steps: DDIM with eta 1, `eta` ignored."""
    return sample_ddim(predict, z, levels, eta=1.0, randn=randn)


def sample_plms(predict: Predict, z: Tensor, levels: Sequence[NoiseLevel], *, eta: float, randn: RandN) -> Tensor:
    """Pseudo linear multi-step (Liu et al. 2022, eq. 12 and 13): Adams-Bashforth over the noise. Deterministic.

    The first step is a Heun step and costs a second network call.
    """
    history: list[Tensor] = []
    for now, then in zip(levels, levels[1:], strict=False):
        z, _, noise = predict(z, now)
        if not history:
            _, _, second = predict(_transfer(z, noise, now, then), then)
            combined = (noise + second) / 2
        else:
            combined = sum(w * e for w, e in zip(ADAMS_BASHFORTH[len(history)], [noise, *history], strict=True))
        history = [noise, *history][:3]
        z = _transfer(z, combined, now, then)
    return z


ADAMS_BASHFORTH = {
    1: (3 / 2, -1 / 2),
    2: (23 / 12, -16 / 12, 5 / 12),
    3: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def _transfer(z: Tensor, noise: Tensor, now: NoiseLevel, then: NoiseLevel) -> Tensor:
    """Deterministic DDIM step with a given noise estimate."""
    return then.signal * (z - now.sigma * noise) / now.signal + then.sigma * noise


def sample_dpmpp_2m(predict: Predict, z: Tensor, levels: Sequence[NoiseLevel], *, eta: float, randn: RandN) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): second order in z0. Deterministic."""
    return sample_dpmpp_2m_sde(predict, z, levels, eta=0.0, randn=randn)


def sample_dpmpp_2m_sde(
    predict: Predict, z: Tensor, levels: Sequence[NoiseLevel], *, eta: float, randn: RandN
) -> Tensor:
    """SDE-DPM-Solver++(2M) (ibid.), its noise scaled by eta: 1 solves the diffusion SDE, 0 the ODE as `dpm++`.

    The first step and the last are of first order: the one has nothing to extrapolate from, and the other ends where
    log-SNR grows without bound, so that any extrapolation over it would be far too long.
    """
    previous: tuple[Tensor, float] | None = None
    for i, (now, then) in enumerate(zip(levels, levels[1:], strict=False)):
        z, z0, _ = predict(z, now)
        h = then.log_snr - now.log_snr
        direction = z0
        if previous is not None and i < len(levels) - 2:
            old_z0, old_h = previous
            direction = z0 + h / (2 * old_h) * (z0 - old_z0)
        kept = math.exp(-eta * h) if eta else 1.0  # of the present noise; the rest of the level's is drawn
        z = then.sigma / now.sigma * kept * z - then.signal * math.expm1(-(1 + eta) * h) * direction
        if eta > 0 and then.sigma > 0:
            z = z + then.sigma * math.sqrt(-math.expm1(-2 * eta * h)) * randn()
        previous = (z0, h)
    return z


def sample_unipc(predict: Predict, z: Tensor, levels: Sequence[NoiseLevel], *, eta: float, randn: RandN) -> Tensor:
    """UniPC (Zhao et al. 2023, arXiv 2302.04867), multi-step, third order in z0, B(h) = e^h - 1. Deterministic.

    Each network call first corrects the step that led to it. The first steps and the last ones are of lower order.
    """
    history: list[tuple[NoiseLevel, Tensor]] = []  # where the network was called and the z0 it found, newest first
    start, order = z, 0  # of the last step
    for i, (now, then) in enumerate(zip(levels, levels[1:], strict=False)):
        z, z0, _ = predict(z, now)
        if history:
            z = _unipc_step(start, now, history[:order], (now, z0))
        history = [(now, z0), *history][:UNIPC_ORDER]
        start, order = z, min(UNIPC_ORDER, i + 1, len(levels) - 1 - i)
        z = _unipc_step(start, then, history[:order])
    return z


UNIPC_ORDER = 3


def _unipc_step(
    z: Tensor,
    then: NoiseLevel,
    history: Sequence[tuple[NoiseLevel, Tensor]],
    corrector: tuple[NoiseLevel, Tensor] | None = None,
) -> Tensor:
    """From the newest level of the history to `then`: UniP, or with the z0 found at `then`, UniC."""
    (now, z0), *older = history
    h = then.log_snr - now.log_snr
    phi = math.expm1(-h)
    z = then.sigma / now.sigma * z - then.signal * phi * z0
    points = [*older, corrector] if corrector is not None else older
    if not points:
        return z
    ratios = np.array([(level.log_snr - now.log_snr) / h for level, _ in points])
    targets, term = [], phi / -h - 1  # k! phi_{k+1}(-h) / B(h) for k = 1, 2, ..., h folded in
    for k in range(1, len(points) + 1):
        targets.append(term * math.factorial(k) / phi)
        term = term / -h - 1 / math.factorial(k + 1)
    # with one point the paper takes 1/2 for every h
    weights = np.linalg.solve(np.vander(ratios, increasing=True).T, targets) if len(points) > 1 else [0.5]
    slopes = sum(float(w / r) * (found - z0) for w, r, (_, found) in zip(weights, ratios, points, strict=True))
    return z - then.signal * phi * slopes


SAMPLERS = {
    "ddim": sample_ddim,
    "ddpm": sample_ddpm,
    "plms": sample_plms,
    "dpm++": sample_dpmpp_2m,
    "dpm++sde": sample_dpmpp_2m_sde,
    "unipc": sample_unipc,
}
OWN_SPACING = {"dpm++": "logsnr", "dpm++sde": "logsnr", "unipc": "logsnr"}  # where none is asked for; else uniform


def noise_levels(schedule: NoiseSchedule, steps: int, spacing: str) -> list[NoiseLevel]:
    """Levels of a run, most noisy first. The last, where it ends, is t = 0 in the published spacing, else no noise."""
    abar = schedule.alphas_cumprod.double().tolist()
    levels = [NoiseLevel(t, abar[t]) for t in reversed(schedule.timesteps(steps, spacing))]
    return [*levels, NoiseLevel(0, abar[0] if spacing == "uniform" else 1.0)]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    shape: Sequence[int],
    schedule: NoiseSchedule,
    sampler: str = "ddim",
    steps: int = 200,
    eta: float = 1.0,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    noise: NoiseSource = None,
    z: Tensor | None = None,
    step_noise: RandN | None = None,
    known_noise: RandN | None = None,
    progress: Progress | None = None,
    spacing: str | None = None,
    given: Tensor | None = None,
) -> Tensor:
    """Denoise from pure noise to latents: the only sampling loop.

    Args:
        denoiser: (z_t, t (B,)) -> network output.
        shape: (B, S, C, T, F).
        schedule: the noise schedule; knows what the output means.
        sampler: a key of `SAMPLERS`.
        steps: 1 to the schedule's timesteps.
        eta: 0 deterministic to 1 ancestral; DDIM and dpm++sde only.
        known: clean latents to keep (B, S, C, T, F), with `mask`, broadcastable, 1 where they are kept. Before every
            network call they are put in, noised afresh to that level. They come back close to `known`, not equal.
        noise: source of all random numbers (see `latent_diffusion.noise`); None for torch's global generator.
        z: start from this instead of drawing it.
        step_noise, known_noise: draw the noise of each step and of the known stems from these instead.
        progress: called with (steps done, steps) after each network call.
        spacing: where the steps lie, one of `schedule.SPACINGS`; None for the sampler's own.
        given: stems (S,) bool whose `known` latents are put in without noise, for a denoiser that expects them so.

    Returns:
        Latents (B, S, C, T, F), scaled as the network's.

    Raises:
        ConfigError: unknown sampler or spacing, or steps out of range.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler: found {sampler!r}, expected one of {', '.join(SAMPLERS)}")
    device = schedule.alphas_cumprod.device
    like = torch.empty(0, device=device)

    def draw() -> Tensor:
        return randn(shape, noise, like)

    levels = noise_levels(schedule, steps, spacing or OWN_SPACING.get(sampler, "uniform"))
    calls = 0

    def predict(z_t: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal calls
        t = torch.full((shape[0],), level.t, device=device, dtype=torch.long)
        if mask is not None:
            noised = schedule.add_noise(known, (known_noise or draw)(), t)
            z_t = mask * noised + (1 - mask) * z_t
        if given is not None:
            z_t = torch.where(given[:, None, None, None], known, z_t)
        output = denoiser(z_t, t)
        calls += 1
        if progress:
            progress(min(calls, steps), steps)
        return z_t, schedule.predict_z0(z_t, output, t), schedule.predict_noise(z_t, output, t)

    start = draw() if z is None else z.to(device)
    z = SAMPLERS[sampler](predict, start, levels, eta=eta, randn=step_noise or draw)
    return z if given is None else torch.where(given[:, None, None, None], known, z)
