"""What a `target:` in a configuration may name.

A target is looked up here and nowhere else: a configuration never makes the program import a module. The kind that a
name stands for is a short string; `utilities.runs` and `latent_diffusion` decide which class belongs to it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from latent_diffusion.errors import ConfigError

# Our own names: what the configuration files of this project say.
OWN_TARGETS: dict[str, str] = {
    "latent_diffusion.musicldm.MusicLDM": "msgld",
    "latent_diffusion.first_stage.training.AutoencoderTraining": "autoencoder_training",
    "latent_diffusion.first_stage.training.VocoderTraining": "vocoder_training",
    "latent_diffusion.first_stage.training.AutoencoderLoss": "autoencoder_loss",
    "latent_diffusion.first_stage.training.VocoderLoss": "vocoder_loss",
    "latent_diffusion.first_stage.AutoencoderKL": "autoencoder",
    "latent_diffusion.first_stage.HiFiGAN": "vocoder",
    "latent_diffusion.first_stage.SpectralVocoder": "spectral_vocoder",
    "latent_diffusion.first_stage.GriffinLim": "griffin_lim",
    "latent_diffusion.unet.UNet3d": "unet",
    "latent_diffusion.networks.StemTransformer": "stem_transformer",
    "latent_diffusion.first_stage.MixtureCondition": "condition",
    "utilities.data.datamodule.StemDataModule": "stem_data",
}

# The names that published configuration files carry: aliases, nothing of the kind exists here.
PUBLISHED_TARGETS: dict[str, str] = {
    "latent_diffusion.models.musicldm.MusicLDM": "msgld",
    "src.utilities.data.datamodule.DataModuleFromConfig": "stem_data",
    "latent_diffusion.modules.diffusionmodules.openaimodel.UNetModel": "unet",
    "latent_encoder.autoencoder.AutoencoderKL": "autoencoder",
    "latent_diffusion.modules.losses.LPIPSWithDiscriminator": "autoencoder_loss",
    "latent_diffusion.modules.encoders.modules.Patch_Cond_Model": "condition",
}

TARGETS: dict[str, str] = OWN_TARGETS | PUBLISHED_TARGETS


def lookup(name: str, allowed: Sequence[str], where: str) -> str:
    """The kind that a target stands for.

    Args:
        name: what the configuration says.
        allowed: kinds that make sense in this place.
        where: file and dotted key, for the message.

    Returns:
        One of `allowed`.

    Raises:
        ConfigError: the name is not registered (the nearest one is named), or stands for something else.
    """
    fitting = [target for target, kind in TARGETS.items() if kind in allowed]
    kind = TARGETS.get(name)
    if kind is None:
        nearest = difflib.get_close_matches(name, fitting, n=1, cutoff=0.0) or [fitting[0]]
        raise ConfigError(
            f"{where}: target {name!r} is not registered, and targets are never imported; "
            f"nearest registered name: {nearest[0]!r}"
        )
    if kind not in allowed:
        raise ConfigError(f"{where}: target {name!r} is of kind {kind}, expected for example {fitting[0]!r}")
    return kind
