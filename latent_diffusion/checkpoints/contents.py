"""What each tensor of a weights file is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.settings import DiffusionSettings

UNET_PREFIX = "model.diffusion_model."
EMA_PREFIX = "model_ema."
FIRST_STAGE_PREFIX = "first_stage_model."
# Tensors that training a first stage leaves in its checkpoints and that inference has no use for.
TRAINING_ONLY = ("loss.", "discriminator", "train_step", "log_mel.", "mel.")
AUTOENCODER_PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")
VOCODER_PARTS = ("conv_pre", "ups", "resblocks", "blocks", "norm", "conv_post")  # of a HiFi-GAN or a spectral vocoder
TABLES = frozenset(NoiseSchedule(DiffusionSettings(timesteps=2)).published_buffers()) | {"lvlb_weights"}

UNET, AVERAGED, VAE, VOCODER = "U-Net", "averaged U-Net", "VAE", "vocoder"
SCALE, LOGVAR, SCHEDULE, LOSSES, OTHER = "scale factor", "log-variance", "schedule tables", "training losses", "unknown"


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose key starts with `prefix`, without it."""
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def group_of(kind: str, key: str) -> str:
    """The part of a model that a key belongs to: one of the capital names above, `OTHER` for none.

    Args:
        kind: kind of the file, a key of `KINDS`.
        key: the published key; a vocoder's without its prefix.
    """
    if kind == "msgld":
        if key.startswith(UNET_PREFIX):
            return UNET
        if key.startswith(EMA_PREFIX):
            return AVERAGED
        if key.startswith(FIRST_STAGE_PREFIX):
            return group_of("autoencoder", key.removeprefix(FIRST_STAGE_PREFIX))
        if key in TABLES:
            return SCHEDULE
        return {"scale_factor": SCALE, "latent_mean": SCALE, "logvar": LOGVAR}.get(key, OTHER)
    if key.startswith(TRAINING_ONLY):
        return LOSSES
    if kind == "autoencoder":
        top = key.split(".")[0]
        return VAE if top in AUTOENCODER_PARTS else VOCODER if top == "vocoder" else OTHER
    return VOCODER if key.split(".")[0] in VOCODER_PARTS else OTHER


def sort_keys(kind: str, keys: Iterable[str]) -> dict[str, list[str]]:
    """All keys of a file by the group they belong to; groups without keys are left out."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(group_of(kind, key), []).append(key)
    return groups
