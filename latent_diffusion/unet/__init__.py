"""The denoising network."""

from latent_diffusion.unet.unet import UNet3d

__all__ = ["UNet3d"]
