"""The training objective and its options, by hand calculation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from latent_diffusion.diffusion.loss import (
    SEPARATION_WEIGHT,
    LossSettings,
    diffusion_loss,
    min_snr_weight,
    separation_term,
    silence_weights,
)
from tests.latent_diffusion.test_diffusion import PARAMETERIZATIONS, random, schedule_for


def loss_of(settings: LossSettings, parameterization: str = "eps", **options: Tensor) -> dict[str, Tensor]:
    schedule, t = schedule_for(parameterization), torch.tensor([10, 600])
    z0, noise, output = random(2, 3, 2, 4, 4), random(2, 3, 2, 4, 4, seed=1), random(2, 3, 2, 4, 4, seed=2)
    z_t = schedule.add_noise(z0, noise, t)
    return diffusion_loss(schedule, z0, z_t, noise, output, t, settings, **options)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_plain_loss(parameterization: str) -> None:
    losses = loss_of(LossSettings(), parameterization)
    schedule, t = schedule_for(parameterization), torch.tensor([10, 600])
    target = schedule.target(random(2, 3, 2, 4, 4), random(2, 3, 2, 4, 4, seed=1), t)
    expected = ((random(2, 3, 2, 4, 4, seed=2) - target) ** 2).mean()
    torch.testing.assert_close(losses["loss"], expected)
    assert torch.equal(losses["loss"], losses["loss_simple"]) and float(losses["loss_vlb"]) > 0


def test_elbo_weight_adds_the_bound() -> None:
    losses = loss_of(LossSettings(original_elbo_weight=0.5))
    torch.testing.assert_close(losses["loss"], losses["loss_simple"] + 0.5 * losses["loss_vlb"])


def test_learned_variance_by_hand() -> None:
    logvar = torch.zeros(1000)
    logvar[10], logvar[600] = math.log(2.0), math.log(4.0)
    schedule, t, zeros = schedule_for(), torch.tensor([10, 600]), torch.zeros(2, 1, 1, 2, 2)
    noise = torch.stack([torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), 6.0)])  # errors 4 and 36
    losses = diffusion_loss(schedule, zeros, zeros, noise, zeros, t, LossSettings(), logvar=logvar)
    expected = (4 / 2 + math.log(2.0) + 36 / 4 + math.log(4.0)) / 2
    assert float(losses["loss"]) == pytest.approx(expected, rel=1e-6)
    assert float(losses["loss_simple"]) == pytest.approx(20.0)


def test_min_snr_weights_by_hand() -> None:
    """An error of z0 weighs min(SNR, gamma); the other outputs' errors are that one times a factor of t alone."""
    gamma, t = 5.0, torch.tensor([0, 100, 300, 999])
    abar = schedule_for().alphas_cumprod[t]
    snr = abar / (1 - abar)
    assert float(snr[0]) > gamma > float(snr[2])
    z0, noise, wrong = random(4, 1, 1, 2, 2), random(4, 1, 1, 2, 2, seed=1), random(4, 1, 1, 2, 2, seed=2)
    weighted = {}
    for name in PARAMETERIZATIONS:
        schedule = schedule_for(name)
        z_t = schedule.add_noise(z0, noise, t)
        # the same wrong z0, said in each network's own terms
        signal, sigma = schedule.signal_and_noise(t, z0)
        output = schedule.target(wrong, (z_t - signal * wrong) / sigma, t)
        error = ((output - schedule.target(z0, noise, t)) ** 2).flatten(1).mean(1)
        weighted[name] = min_snr_weight(schedule, t, gamma) * error
    expected = snr.clamp(max=gamma) * ((wrong - z0) ** 2).flatten(1).mean(1)
    for name in PARAMETERIZATIONS:
        torch.testing.assert_close(weighted[name], expected, rtol=2e-3, atol=1e-5)


def test_channels_count_by_their_spread() -> None:
    """Standard deviations 9 and 1 to the power 0.5 weigh 3 to 1, with mean 1."""
    schedule, t = schedule_for(), torch.tensor([10])
    zeros, noise = torch.zeros(1, 2, 2, 3, 3), torch.zeros(1, 2, 2, 3, 3)
    noise[:, :, 0] = 2.0  # squared error 4 in the first channel, none in the second
    std = torch.tensor([9.0, 1.0]).reshape(2, 1, 1)
    settings = LossSettings(channel_power=0.5)
    losses = diffusion_loss(schedule, zeros, zeros, noise, zeros, t, settings, latent_std=std)
    assert float(losses["loss"]) == pytest.approx(1.5 * 4 / 2)
    assert float(losses["loss_simple"]) == pytest.approx(2.0)


def test_silence_counts_less() -> None:
    log_mel = torch.full((2, 2, 8, 8), -11.0)
    log_mel[0, 0, :4] = -1.0  # the first half of one stem sounds
    weights = silence_weights(log_mel, 3.0, torch.zeros(2, 2, 5, 4, 2))
    assert weights.shape == (2, 2, 1, 4, 2)
    torch.testing.assert_close(weights.mean((1, 2, 3, 4)), torch.ones(2))
    loud, quiet = weights[0, 0, 0, 0, 0], weights[0, 1, 0, 0, 0]
    assert float(loud / quiet) == pytest.approx(math.exp(10 / 3), rel=1e-4)
    torch.testing.assert_close(weights[1], torch.ones(2, 1, 4, 2))  # nothing to choose: all alike
    plain = loss_of(LossSettings())["loss"]
    loudest = torch.full((2, 3, 8, 8), 0.0)
    torch.testing.assert_close(loss_of(LossSettings(silence_tau=3.0), log_mel=loudest)["loss"], plain)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_separation_rewards_distance(parameterization: str) -> None:
    """Stems that are further apart after one reverse step give a smaller loss."""
    schedule, t = schedule_for(parameterization), torch.tensor([300])
    noise = random(1, 2, 1, 2, 2, seed=1)
    terms = []
    for distance in (0.0, 1.0, 3.0):
        z0 = torch.stack([torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), distance)], 1)
        shared = noise[:, :1].expand_as(z0)
        z_t = schedule.add_noise(z0, shared, t)
        terms.append(float(separation_term(schedule, z_t, schedule.target(z0, shared, t), t)))
    assert terms[0] == pytest.approx(0.0, abs=1e-6) and terms[2] < terms[1] < 0
    # z0 shrinks by sqrt(abar_t) on its way to z_t, and one reverse step divides by sqrt(1 - beta_t)
    factor = schedule.alphas_cumprod[300] / (1 - schedule.betas[300])
    assert terms[1] == pytest.approx(-4 * float(factor), rel=1e-4)
    with_term = loss_of(LossSettings(separate_stems=True), parameterization)
    assert float(with_term["loss"]) < float(with_term["loss_simple"])
    assert SEPARATION_WEIGHT == 1e-5
