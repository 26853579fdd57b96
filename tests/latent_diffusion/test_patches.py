"""The first stage of principal patches: it is the best linear map, its latents are a point, and its decoder learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from latent_diffusion.errors import ConfigError
from latent_diffusion.first_stage import AutoencoderKL
from latent_diffusion.first_stage.patches import fit_patches, principal_patches
from latent_diffusion.first_stage.training import AutoencoderLossSettings, AutoencoderTraining
from latent_diffusion.settings import AutoencoderSettings, MelSettings

PATCHES = AutoencoderSettings(
    kind="patch", ch=8, ch_mult=(1, 1, 1), num_res_blocks=1, z_channels=4, embed_dim=4, num_groups=4
)


def smooth(seed: int, count: int = 6) -> Tensor:
    """Log-mels (count, 32, 16) in which neighbours are alike."""
    noise = torch.randn(count, 1, 36, 20, generator=torch.Generator().manual_seed(seed))
    return 3 * torch.nn.functional.avg_pool2d(noise, 5, stride=1)[:, 0] - 6


def fitted() -> AutoencoderKL:
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(PATCHES)
    fit_patches(autoencoder, smooth(0))
    return autoencoder


def test_reconstruction_is_the_singular_value_bound() -> None:
    """Eckart and Young 1936: no linear map of this rank loses less than the discarded singular values."""
    log_mels = smooth(0)
    autoencoder = fitted()
    with torch.no_grad():
        back = autoencoder.decode(autoencoder.encode(log_mels[:, None]).mode())[:, 0]
    rows = log_mels.unfold(1, 4, 4).unfold(2, 4, 4).reshape(-1, 16).double() - log_mels.double().mean()
    discarded = torch.linalg.svdvals(rows)[4:].square().sum() / log_mels.numel()
    assert ((back - log_mels) ** 2).mean() == pytest.approx(discarded.item(), rel=1e-4)


def test_patches_are_orthonormal_and_ordered() -> None:
    patches, mean = principal_patches(smooth(1), 4, 4)
    assert mean == pytest.approx(smooth(1).mean().item(), abs=1e-5)
    torch.testing.assert_close(torch.einsum("iab,jab->ij", patches, patches), torch.eye(4), atol=1e-5, rtol=0)
    z = fitted().encode(smooth(0)[:, None]).mean
    spread = z.square().mean((0, 2, 3))
    assert (spread.diff() < 0).all()


def test_the_posterior_is_a_point() -> None:
    posterior = fitted().encode(smooth(2)[:, None])
    assert posterior.mean.shape == (6, 4, 8, 4)
    torch.testing.assert_close(posterior.sample(torch.Generator().manual_seed(0)), posterior.mean)


def test_autocast_leaves_latents_exact() -> None:
    autoencoder, log_mel = fitted(), smooth(3)[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        z = autoencoder.encode(log_mel).mean
    assert torch.equal(z, autoencoder.encode(log_mel).mean)


def test_only_the_correction_is_trained() -> None:
    mel = MelSettings(sample_rate=4000, n_fft=256, win_length=256, hop_length=40, n_mels=16, f_max=2000.0, frames=32)
    training = AutoencoderTraining(PATCHES, mel, AutoencoderLossSettings(disc_start=-1))
    fit_patches(training.autoencoder, smooth(0))
    trained = {id(p) for p in training.trained_parameters()}
    names = {name for name, p in training.autoencoder.named_parameters() if id(p) not in trained}
    assert names == {
        f"{part}.{kind}"
        for part in ("encoder.map", "decoder.map", "quant_conv", "post_quant_conv")
        for kind in ("weight", "bias")
    }
    loss = (training(smooth(0)[:, None])[0] - smooth(0)[:, None]).square().mean()
    loss.backward()
    assert training.autoencoder.decoder.conv_out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("change", [{"kind": "wavelet"}, {"embed_dim": 3}, {"z_channels": 17, "embed_dim": 17}])
def test_bad_settings(change: dict) -> None:
    with pytest.raises(ConfigError, match="autoencoder"):
        replace(PATCHES, **change)
