"""Holding a weights file against settings and networks: every difference is found before a weight is taken over."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latent_diffusion.architecture import infer_autoencoder, infer_diffusion, infer_model_settings, infer_vocoder
from latent_diffusion.checkpoints.contents import EMA_PREFIX, FIRST_STAGE_PREFIX, UNET_PREFIX, strip_prefix
from latent_diffusion.checkpoints.reading import WeightsFile, expect_kind
from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.ema import shadow_name
from latent_diffusion.errors import CheckpointError, ConfigError
from latent_diffusion.settings import (
    AutoencoderSettings,
    DiffusionSettings,
    MelSettings,
    ModelSettings,
    VocoderSettings,
    settings_from_dict,
)

log = logging.getLogger(__name__)

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Where a setting stands in a configuration (below model.params unless it starts with data).
CONFIG_KEYS = {
    "unet": "unet_config.params",
    "autoencoder": "ddconfig",
    "vocoder": "vocoder_config.params",
    "mel": "data.params.preprocessing",
}
RENAMED = {
    "n_mels": "mel.n_mel_channels",
    "sample_rate": "audio.sampling_rate",
    "n_fft": "stft.filter_length",
    "win_length": "stft.win_length",
    "hop_length": "stft.hop_length",
    "f_min": "mel.mel_fmin",
    "f_max": "mel.mel_fmax",
}
# Settings that leave no trace in weights: compared only where the file has a description of its own.
UNTOLD = {
    "num_head_channels",
    "num_groups",
    "parameterization",
    "sample_rate",
    "n_fft",
    "win_length",
    "hop_length",
    "f_min",
    "f_max",
}
# May differ, or are said elsewhere.
FREE = {"dropout", "resolution", "frames", "in_channels", "out_channels", "num_mels"}
FREE |= {"phase_iterations", "band_iterations"}


def check_fits(weights: WeightsFile, settings: ModelSettings, own_vocoder: bool = True) -> None:
    """Hold an MSG-LD file against the settings that a configuration asks for, before any tensor is.

    Args:
        weights: the file.
        settings: the configuration's.
        own_vocoder: whether the file's own vocoder is to be used.

    Raises:
        CheckpointError: they differ; names the configuration's key and the value that would fit.
    """
    expect_kind(weights, "msgld")
    found = settings_of(weights, settings.vocoder if own_vocoder else None)
    theirs, ours = len(found.stems), len(settings.stems)
    if theirs != ours:
        raise CheckpointError(
            f"{weights.path}: {theirs} stems in the file, data.params.path.stems names {ours} "
            f"({', '.join(settings.stems)}); name {theirs}"
        )
    told = weights.description is not None
    if told and found.stems != settings.stems:
        log.warning(
            "%s: trained on %s; data.params.path.stems is %s", weights.path, list(found.stems), list(settings.stems)
        )
    parts = ["unet", "autoencoder", "mel", *(["vocoder"] if own_vocoder else []), *(["diffusion"] if told else [])]
    for part in parts:
        check_part(part, getattr(found, part), getattr(settings, part), told, weights.path)
    check_schedule(weights, settings.diffusion)


def has_vocoder(weights: WeightsFile, wanted: VocoderSettings) -> bool:
    """Whether an MSG-LD file holds weights of the vocoder that is wanted.

    Raises:
        CheckpointError: another kind of file, or settings that cannot be understood.
    """
    found = settings_of(weights, wanted).vocoder
    try:
        check_part("vocoder", found, wanted, weights.description is not None, weights.path)
    except CheckpointError:
        return False
    return True


def check_part(part: str, found: Any, wanted: Any, told: bool, path: Path) -> None:
    """Compare one part's settings; see `check_fits`."""
    if type(found) is not type(wanted):
        names = [type(part).__name__.removesuffix("Settings") for part in (found, wanted)]
        raise CheckpointError(
            f"{path}: a {names[0]} in the file, a {names[1]} in unet_config.target; set that to the file's"
        )
    for name, theirs, ours in _differences(found, wanted):
        if name in FREE or (name in UNTOLD and not told):
            continue
        where = CONFIG_KEYS.get(part, "model.params")
        if name == "kind":
            raise CheckpointError(
                f"{path}: a {theirs} vocoder in the file, a {ours} one in vocoder_config.target; "
                "set that to the file's, or name the other's weights as vocoder_config.ckpt_path"
            )
        if name == "embed_dim":
            where = "first_stage_config.params"
        shown = [list(value) if isinstance(value, tuple) else value for value in (theirs, ours)]
        key = f"{where}.{RENAMED.get(name, name)}"
        raise CheckpointError(f"{path}: {name} {shown[0]} in the file, {key} is {shown[1]}; set it to {shown[0]}")


def _differences(found: Any, wanted: Any) -> Iterator[tuple[str, Any, Any]]:
    for field in fields(wanted):
        theirs, ours = getattr(found, field.name), getattr(wanted, field.name)
        a, b = theirs, ours
        if field.name == "attention_resolutions":  # factors without a level mean nothing
            levels = {2**i for i in range(len(wanted.channel_mult))}
            a, b = set(theirs) & levels, set(ours) & levels
        elif field.name == "attn_resolutions":
            a, b = _attended(found), _attended(wanted)
        if not (math.isclose(a, b, rel_tol=1e-5) if isinstance(a, float) and isinstance(b, float) else a == b):
            yield field.name, theirs, ours


def _attended(s: AutoencoderSettings) -> list[bool]:
    return [s.resolution // 2**i in s.attn_resolutions for i in range(len(s.ch_mult))]


def check_schedule(weights: WeightsFile, diffusion: DiffusionSettings) -> None:
    """Hold the schedule tables of a published checkpoint against the schedule that will be used.

    Raises:
        CheckpointError: they are of another schedule, or contradict each other.
    """
    if "betas" not in weights.tensors:
        return
    path, found = weights.path, infer_diffusion(weights.tensors, str(weights.path))
    ours, theirs = ((s.timesteps, s.linear_start, s.linear_end) for s in (diffusion, found))
    if ours[0] != theirs[0] or not all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(ours, theirs, strict=True)):
        words = ["timesteps {}, linear_start {:g}, linear_end {:g}".format(*values) for values in (theirs, ours)]
        raise CheckpointError(
            f"{path}: trained with another noise schedule: {words[0]}; model.params says {words[1]}; "
            "set them to the file's"
        )
    schedule = NoiseSchedule(diffusion)
    for name, table in schedule.published_buffers().items():
        if name not in weights.tensors:
            continue
        stored = weights.tensors[name]
        tolerance = 1e-4 if stored.dtype in (torch.float32, torch.float64) else 2e-2
        if stored.shape != table.shape or not torch.allclose(stored.float(), table, rtol=tolerance, atol=tolerance):
            raise CheckpointError(f"{path}: schedule table {name!r} does not belong to the file's betas; damaged")


def settings_of(weights: WeightsFile, vocoder: VocoderSettings | None = None) -> ModelSettings:
    """Settings of an MSG-LD file: those it carries, or those that its tensors' shapes imply.

    Args:
        weights: the file.
        vocoder: settings whose upsampling rates and dilations, which leave no trace, are taken where the rest fits.

    Raises:
        CheckpointError: another kind of file, or settings that cannot be understood.
    """
    expect_kind(weights, "msgld")
    if weights.description is None:
        return infer_model_settings(weights.tensors, str(weights.path), vocoder)
    try:
        return ModelSettings.from_dict(weights.description)
    except (ConfigError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{weights.path}: its settings cannot be used: {error}") from None


def first_stage_settings_of(weights: WeightsFile, vocoder: VocoderSettings | None = None) -> tuple[Any, bool]:
    """Settings of a VAE or HiFi-GAN file, and whether the file itself tells them (rather than its shapes)."""
    cls = AutoencoderSettings if weights.kind == "autoencoder" else VocoderSettings
    told = (weights.description or {}).get(weights.kind)
    try:
        if isinstance(told, dict):
            return settings_from_dict(cls, told), True
        if weights.kind == "autoencoder":
            return infer_autoencoder(weights.tensors), False
        return infer_vocoder(weights.tensors, str(weights.path), vocoder), False
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{weights.path}: not a complete {weights.kind} ({error})") from None
    except ConfigError as error:
        raise CheckpointError(f"{weights.path}: {error}") from None


def mel_of(weights: WeightsFile) -> MelSettings:
    """The front end that a VAE or vocoder file belongs to: the one it tells, or the published one.

    Raises:
        CheckpointError: what it tells cannot be used.
    """
    told = (weights.description or {}).get("mel")
    try:
        if isinstance(told, dict):
            return settings_from_dict(MelSettings, told)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{weights.path}: its settings cannot be used: {error}") from None
    if weights.kind == "vocoder":
        return MelSettings(n_mels=first_stage_settings_of(weights)[0].num_mels)
    return MelSettings()


def check_state(module: nn.Module, state: Mapping[str, Tensor], path: Path, part: str) -> None:
    """Hold tensors against a module, key by key; nothing is copied.

    Raises:
        CheckpointError: a key is missing, left over, of another shape, not floating point, or not finite.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state]
    surplus = [key for key in state if key not in own]
    if missing or surplus:
        problem, keys = ("lacks", missing) if missing else ("has an unexpected", surplus)
        others = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        raise CheckpointError(
            f"{path}: {part} {problem} {keys[0]!r}{others}; damaged, or the config describes another architecture"
        )
    for key, tensor in own.items():
        found = state[key]
        if found.shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {part} {key!r} has shape {tuple(found.shape)}, the config asks for {tuple(tensor.shape)}"
            )
        check_values(found, path, f"{part} {key!r}")


def check_values(tensor: Tensor, path: Path, name: str) -> None:
    """Weights must be floating point and finite; the smallest and largest tell, without a copy.

    Raises:
        CheckpointError: they are not.
    """
    if tensor.dtype not in FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"{path}: {name} is {kind}, expected floating point of 16 to 64 bits")
    if tensor.numel() and not all(math.isfinite(value) for value in torch.aminmax(tensor)):
        raise CheckpointError(f"{path}: {name} holds NaN or infinite values; the file is no use")


def fit_state(module: nn.Module, state: Mapping[str, Tensor], path: Path, part: str) -> None:
    """Put tensors into a module, key by key; the module keeps its dtype, but where it was built on "meta" the
    tensors themselves (perhaps memory-mapped) become its parameters.

    Raises:
        CheckpointError: see `check_state`.
    """
    check_state(module, state, path, part)
    own = module.state_dict()
    on_meta = any(tensor.is_meta for tensor in own.values())
    module.load_state_dict({key: state[key].to(own[key].dtype) for key in own}, assign=on_meta)


def check_optimiser(checkpoint: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> None:
    """The optimisers' states of a Lightning checkpoint must be of the tensors that are trained, in their order.

    Raises:
        CheckpointError: they are not.
    """
    for state in checkpoint.get("optimizer_states", []):
        stored = [key for group in state["param_groups"] for key in group["params"]]
        averages = [state["state"].get(key, {}).get("exp_avg") for key in stored]
        fits = len(stored) == len(parameters) and all(
            average is None or average.shape == p.shape for average, p in zip(averages, parameters, strict=True)
        )
        if not fits:
            raise CheckpointError(
                f"checkpoint: its optimiser trained {len(stored)} tensors that are not the {len(parameters)} trained "
                "here (learn_logvar?); start a new training from its weights with model.params.ckpt_path"
            )


def unet_state(weights: WeightsFile, ema: bool) -> dict[str, Tensor]:
    """U-Net weights of an MSG-LD file, averaged or raw, by the U-Net's own names.

    Raises:
        CheckpointError: averaged weights were asked for and one is missing, or one belongs to nothing.
    """
    raw = strip_prefix(weights.tensors, UNET_PREFIX)
    if not ema:
        return raw
    stored = strip_prefix(weights.tensors, EMA_PREFIX)
    averaged: dict[str, Tensor] = {}
    for name in raw:
        key = shadow_name(f"diffusion_model.{name}")
        if key not in stored:
            raise CheckpointError(f"{weights.path}: averaged weights lack {EMA_PREFIX + key!r}")
        averaged[name] = stored.pop(key)
    surplus = [key for key in stored if key not in ("decay", "num_updates")]
    # A learnt condition or log-variance would be averaged, too; here neither is.
    if surplus:
        raise CheckpointError(f"{weights.path}: averaged weights have an unexpected {EMA_PREFIX + surplus[0]!r}")
    return averaged


def scale_of(weights: WeightsFile) -> Tensor:
    """The scale factor, float32: (), (C, 1, 1) for each latent channel, or (C, 1, F) for each channel and band.

    Raises:
        CheckpointError: missing, or not positive numbers in one of these shapes.
    """
    scale = weights.tensors.get("scale_factor")
    if scale is None:
        raise CheckpointError(f"{weights.path}: lacks 'scale_factor'")
    check_values(scale, weights.path, "'scale_factor'")
    channels = weights.tensors.get(FIRST_STAGE_PREFIX + "post_quant_conv.weight", torch.empty(0, 0)).shape[1]
    if scale.numel() != 1 and (scale.dim() != 3 or tuple(scale.shape[:2]) != (channels, 1)):
        raise CheckpointError(
            f"{weights.path}: 'scale_factor' has shape {tuple(scale.shape)}, expected (), (C, 1, 1) or (C, 1, F)"
        )
    if not bool((scale > 0).all()):
        raise CheckpointError(f"{weights.path}: 'scale_factor' is not positive")
    return scale.float().reshape(() if scale.numel() == 1 else scale.shape)


def mean_of(weights: WeightsFile) -> Tensor:
    """The latents' mean, float32, shaped as the scale factor; 0 where the file has none, as in published ones.

    Raises:
        CheckpointError: not finite, or of another shape than the scale factor.
    """
    scale = scale_of(weights)
    mean = weights.tensors.get("latent_mean")
    if mean is None:
        return torch.zeros_like(scale)
    check_values(mean, weights.path, "'latent_mean'")
    if mean.shape != scale.shape:
        raise CheckpointError(
            f"{weights.path}: 'latent_mean' has shape {tuple(mean.shape)}, expected {tuple(scale.shape)}, that of the "
            "scale factor"
        )
    return mean.float()
