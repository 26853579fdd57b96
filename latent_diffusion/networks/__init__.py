"""The denoising networks: the published 3-D U-Net, and a transformer over latent frames."""

from __future__ import annotations

from torch import nn

from latent_diffusion.networks.stem_transformer import StemTransformer
from latent_diffusion.settings import StemTransformerSettings, UNetSettings
from latent_diffusion.unet import UNet3d

__all__ = ["StemTransformer", "UNet3d", "build_network"]


def build_network(settings: UNetSettings | StemTransformerSettings) -> nn.Module:
    """The network of some settings: (z_t (B, S, C, T, F), t (B,), mixture (B, C, T, F)) -> (B, S, C, T, F)."""
    return StemTransformer(settings) if isinstance(settings, StemTransformerSettings) else UNet3d(settings)
