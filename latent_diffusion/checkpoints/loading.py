"""From weights files into networks. What a file holds beyond that is named in the log, once a file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from latent_diffusion.checkpoints.contents import (
    AUTOENCODER_PARTS,
    AVERAGED,
    EMA_PREFIX,
    FIRST_STAGE_PREFIX,
    LOSSES,
    OTHER,
    SCHEDULE,
    UNET,
    UNET_PREFIX,
    VAE,
    VOCODER,
    group_of,
    sort_keys,
    strip_prefix,
)
from latent_diffusion.checkpoints.fitting import (
    check_part,
    check_schedule,
    check_state,
    first_stage_settings_of,
    fit_state,
    mean_of,
    scale_of,
    settings_of,
    unet_state,
)
from latent_diffusion.checkpoints.reading import WeightsFile, expect_kind, read_weights
from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.ema import shadow_name
from latent_diffusion.errors import CheckpointError
from latent_diffusion.first_stage import FirstStage, HiFiGAN
from latent_diffusion.networks import build_network
from latent_diffusion.settings import ModelSettings, VocoderSettings

log = logging.getLogger(__name__)

WHY_LEFT_OUT = {
    UNET: "raw U-Net weights (the averaged ones are used)",
    AVERAGED: "averaged U-Net weights",
    VAE: "the VAE",
    VOCODER: "the vocoder",
    SCHEDULE: "schedule tables (they agree with the settings)",
    LOSSES: "training losses",
}


def log_left_out(weights: WeightsFile, *used: str) -> None:
    """Say in one line what a file holds that is not used, and warn of what nothing here knows.

    Args:
        weights: the file.
        used: groups that are used (see `contents`).
    """
    groups = sort_keys(weights.kind, weights.tensors)
    if weights.rest:
        groups.setdefault(LOSSES, []).extend(weights.rest)
    unknown = groups.pop(OTHER, [])
    named = [
        f"{len(groups[name])} tensors of {why}" for name, why in WHY_LEFT_OUT.items() if name in groups.keys() - used
    ]
    if named:
        log.info("%s: left out: %s", weights.path, ", ".join(named))
    if unknown:
        some = ", ".join(unknown[:3])
        log.warning("%s: left out %d tensors of unknown use: %s ...", weights.path, len(unknown), some)


def fuse_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """HiFi-GAN weights with every `weight_g`, `weight_v` pair replaced by the `weight` that they mean."""
    fused = {key: value for key, value in state.items() if not key.endswith(("weight_g", "weight_v"))}
    for key, v in state.items():
        g = state.get(key[:-1] + "g") if key.endswith("weight_v") else None
        if g is not None and v.is_floating_point() and v.dim() > 1:
            v = v.float()
            norm = torch.linalg.vector_norm(v, dim=tuple(range(1, v.dim())), keepdim=True)
            fused[key[:-2]] = g.float() * (v / norm)
        elif key.endswith("weight_v"):
            fused[key] = v  # to be named as left over
    return fused


def split_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `fuse_weight_norm`: every `weight` as a pair whose `weight_g` is the norm of `weight_v`."""
    split = {key: value for key, value in state.items() if not key.endswith("weight")}
    for key, weight in state.items():
        if key.endswith("weight"):
            dims = tuple(range(1, weight.dim()))
            split[f"{key}_g"] = torch.linalg.vector_norm(weight.float(), dim=dims, keepdim=True)
            split[f"{key}_v"] = weight
    return split


def first_stage_state(weights: WeightsFile) -> dict[str, Tensor]:
    """VAE and vocoder of an MSG-LD file, by the `FirstStage`'s own names."""
    stage = strip_prefix(weights.tensors, FIRST_STAGE_PREFIX)
    return {key: value for key, value in stage.items() if group_of("autoencoder", key) in (VAE, VOCODER)}


def autoencoder_state(weights: WeightsFile) -> dict[str, Tensor]:
    """The VAE alone, of an MSG-LD or a VAE file."""
    state = weights.tensors if weights.kind == "autoencoder" else strip_prefix(weights.tensors, FIRST_STAGE_PREFIX)
    return {key: value for key, value in state.items() if group_of("autoencoder", key) == VAE}


def check_networks(weights: WeightsFile, unet: nn.Module, first_stage: nn.Module | None) -> None:
    """Hold all tensors of an MSG-LD file against networks, None for a first stage that is not used.

    Raises:
        CheckpointError: see `check_state`, `unet_state` and `scale_of`.
    """
    check_state(unet, unet_state(weights, ema=False), weights.path, UNET)
    if weights.has_ema:
        check_state(unet, unet_state(weights, ema=True), weights.path, AVERAGED)
    if first_stage is not None:
        check_state(first_stage, first_stage_state(weights), weights.path, "first stage")
    scale_of(weights)
    mean_of(weights)


def merge_state(
    weights: WeightsFile, own: Mapping[str, Tensor], others: Iterable[str], first_stage: bool = True
) -> dict[str, Tensor]:
    """The state of an MSG-LD in training with a checked file's weights in it; what the file lacks stays.

    Args:
        weights: the file; what of it is left out is named in the log.
        own: state of the model, with averaged weights or without.
        others: keys beside the networks' that are taken over, where file and model have them in one shape.
        first_stage: whether the first stage is taken over.
    """
    taken = {UNET_PREFIX + key: value for key, value in unet_state(weights, ema=False).items()}
    used = [UNET, VAE, VOCODER]
    if any(key.startswith(EMA_PREFIX) for key in own):
        for key, value in unet_state(weights, ema=weights.has_ema).items():
            taken[EMA_PREFIX + shadow_name(f"diffusion_model.{key}")] = value
        used.append(AVERAGED)
    if first_stage:
        taken |= {FIRST_STAGE_PREFIX + key: value for key, value in first_stage_state(weights).items()}
    for key in others:
        if key in own and key in weights.tensors and own[key].shape == weights.tensors[key].shape:
            taken[key] = weights.tensors[key]
    log_left_out(weights, *used)
    return {**own, **taken}


def load_autoencoder(module: nn.Module, path: str | Path) -> None:
    """Weights of the VAE part of a `FirstStage` (or of an `AutoencoderKL`) from a VAE or MSG-LD checkpoint.

    Raises:
        CheckpointError: see `read_weights` and `fit_state`.
    """
    weights = read_weights(path)
    settings = getattr(module, "settings", None)
    if weights.kind == "msgld":
        found, told = settings_of(weights).autoencoder, weights.description is not None
    else:
        found, told = first_stage_settings_of(expect_kind(weights, "autoencoder", "the first stage"))
    if isinstance(settings, type(found)):
        check_part("autoencoder", found, settings, told, weights.path)
    parts = nn.ModuleDict({name: getattr(module, name) for name in AUTOENCODER_PARTS})
    fit_state(parts, autoencoder_state(weights), weights.path, "VAE")
    log_left_out(weights, VAE)


def load_vocoder(vocoder: nn.Module, path: str | Path) -> None:
    """Weights of a `HiFiGAN` without weight norm or of a `SpectralVocoder` from a vocoder's or an MSG-LD checkpoint.

    Raises:
        CheckpointError: see `read_weights` and `fit_state`.
    """
    weights = read_weights(path)
    if weights.kind == "msgld":
        state = strip_prefix(weights.tensors, FIRST_STAGE_PREFIX + "vocoder.")
        weights_of_it = WeightsFile(weights.path, "vocoder", state, weights.description)
    else:
        weights_of_it = expect_kind(weights, "vocoder", "the vocoder")
        state = fuse_weight_norm(weights.tensors)
    _check_vocoder(vocoder, weights_of_it)
    fit_state(vocoder, state, weights.path, "vocoder")
    log_left_out(weights, VOCODER)


def load_normed_vocoder(vocoder: nn.Module, path: str | Path) -> None:
    """Weights of a vocoder in training, where a `HiFiGAN` has weight norm, from a checkpoint with or without it.

    Raises:
        CheckpointError: see `read_weights` and `fit_state`.
    """
    weights = expect_kind(read_weights(path), "vocoder", "the vocoder")
    _check_vocoder(vocoder, weights)
    state = weights.tensors
    if isinstance(vocoder, HiFiGAN) and not any(key.endswith("weight_g") for key in state):
        state = split_weight_norm(state)
    fit_state(vocoder, state, weights.path, "vocoder")
    log_left_out(weights, VOCODER)


def _check_vocoder(vocoder: nn.Module, weights: WeightsFile) -> None:
    settings = getattr(vocoder, "settings", None)
    if isinstance(settings, VocoderSettings):
        found, told = first_stage_settings_of(weights, settings)
        check_part("vocoder", found, settings, told, weights.path)


def build_on_meta(settings: ModelSettings, path: Path) -> tuple[nn.Module, FirstStage, NoiseSchedule]:
    """Networks without memory for weights that are about to be replaced.

    Raises:
        CheckpointError: the settings, which come from a file, are nonsense.
    """
    try:
        with torch.device("meta"):
            return build_network(settings.unet), FirstStage(settings), NoiseSchedule(settings.diffusion)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path}: no network can be built from its settings: {lines[0][:160]}") from None


def load_pipeline_parts(
    path: str | Path,
) -> tuple[nn.Module, FirstStage, NoiseSchedule, Tensor, Tensor, ModelSettings]:
    """Networks for inference from an MSG-LD checkpoint; averaged weights where it has them.

    The file stays mapped, and only the weights in use are ever read from it.

    Returns:
        Network, first stage, schedule, scale factor and mean of the latents, settings.

    Raises:
        CheckpointError: see `read_weights` and `fit_state`.
    """
    weights = expect_kind(read_weights(path), "msgld")
    settings = settings_of(weights)
    check_schedule(weights, settings.diffusion)
    unet, first_stage, schedule = build_on_meta(settings, weights.path)
    scale = scale_of(weights)
    fit_state(unet, unet_state(weights, weights.has_ema), weights.path, "U-Net")
    fit_state(first_stage, first_stage_state(weights), weights.path, "first stage")
    log_left_out(weights, AVERAGED if weights.has_ema else UNET, VAE, VOCODER)
    return unet, first_stage, schedule, scale, mean_of(weights), settings
