"""A first stage for a CPU: principal components of log-mel patches, and a small network that mends what they lose.

Of all linear maps from r x r patches to C numbers, principal components reconstruct best (Pearson 1901). The encoder
costs next to nothing, so that latents need no cache and training can change the audio at every step. The decoder
undoes the map and adds a correction by a few residual blocks at full resolution, which also hides the patches' edges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_diffusion.layers import group_norm, silu, zero_init
from latent_diffusion.settings import AutoencoderSettings

LOGVAR = -30.0  # the posterior is a point


class PatchEncoder(nn.Module):
    """Log-mel (B, 1, T, M) to components and their log-variances (B, 2 z_channels, T/r, M/r)."""

    def __init__(self, s: AutoencoderSettings):
        super().__init__()
        self.map = nn.Conv2d(s.in_channels, 2 * s.z_channels, s.reduction, stride=s.reduction)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


class PatchDecoder(nn.Module):
    """Components (B, z_channels, T/r, M/r) to log-mel (B, 1, T, M)."""

    def __init__(self, s: AutoencoderSettings, block: type[nn.Module]):
        super().__init__()
        self.map = nn.ConvTranspose2d(s.z_channels, s.out_ch, s.reduction, stride=s.reduction)
        self.conv_in = nn.Conv2d(s.out_ch, s.ch, 3, padding=1)
        self.blocks = nn.Sequential(*(block(s.ch, s.ch, s) for _ in range(s.num_res_blocks)))
        self.norm_out = group_norm(s.ch, s.num_groups, 1e-6)
        self.conv_out = zero_init(nn.Conv2d(s.ch, s.out_ch, 3, padding=1))

    def correction_parameters(self) -> list[nn.Parameter]:
        """All but the linear map."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("map.")]

    def forward(self, z: Tensor) -> Tensor:
        linear = self.map(z)
        return linear + self.conv_out(silu(self.norm_out(self.blocks(self.conv_in(linear)))))


@torch.no_grad()
def principal_patches(log_mels: Tensor, size: int, components: int) -> tuple[Tensor, Tensor]:
    """The patches that explain most of the variance of log-mels around their common mean.

    Args:
        log_mels: (P, T, M); T and M multiples of `size`.
        size: frames and bins of a patch (r).
        components: how many (C), at most size * size.

    Returns:
        Orthonormal patches (C, size, size), the most important first, and the mean of all values, ().
    """
    mean = log_mels.double().mean()
    patches = F.unfold((log_mels.double() - mean)[:, None], size, stride=size)  # (P, size * size, n)
    moments = torch.einsum("pin,pjn->ij", patches, patches)
    vectors = torch.linalg.eigh(moments).eigenvectors.flip(1)[:, :components]
    signs = vectors.sum(0).sign()  # of a vector and its negative, always the same one
    vectors = vectors * torch.where(signs == 0, torch.ones_like(signs), signs)
    return vectors.T.reshape(components, size, size).float(), mean.float()


@torch.no_grad()
def fit_patches(autoencoder: nn.Module, log_mels: Tensor) -> None:
    """Set the maps of a patch autoencoder to the principal components of log-mels (P, T, M)."""
    s = autoencoder.settings
    patches, mean = principal_patches(log_mels.cpu(), s.reduction, s.z_channels)
    encoder, decoder = autoencoder.encoder.map, autoencoder.decoder.map
    encoder.weight.zero_()
    encoder.weight[: s.z_channels].copy_(patches[:, None])
    encoder.bias.fill_(LOGVAR)
    encoder.bias[: s.z_channels].copy_(-mean * patches.sum((1, 2)))
    decoder.weight.copy_(patches[:, None])
    decoder.bias.fill_(mean)
    for quant in (autoencoder.quant_conv, autoencoder.post_quant_conv):
        quant.weight.copy_(torch.eye(len(quant.weight))[:, :, None, None])
        quant.bias.zero_()
