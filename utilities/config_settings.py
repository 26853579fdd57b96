"""What a configuration means: the kind of model, the task, and the settings that networks are built from."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from latent_diffusion.errors import ConfigError
from latent_diffusion.settings import (
    AutoencoderSettings,
    DiffusionSettings,
    MelSettings,
    ModelSettings,
    StemTransformerSettings,
    UNetSettings,
    VocoderSettings,
)

from .config_reader import MODEL_KINDS
from .config_schema import Config
from .config_schema_model import FirstStageParams, UNetParams
from .registry import lookup

CONDITION_DROPOUT = 0.1  # published


def kind(config: Config) -> str:
    """What `model.target` trains: "msgld", "autoencoder" or "vocoder"."""
    return MODEL_KINDS[lookup(config.model.target, tuple(MODEL_KINDS), f"{config.path}: model.target")]


def task_name(config: Config) -> str:
    """The task of validation and test: "separation", "generation" or "arrangement".

    `task` says it outright; otherwise the published rules hold: `stems_to_inpaint` present: arrangement;
    `unconditional_guidance_scale: 0`: total generation; otherwise separation.

    Raises:
        ConfigError: the model is no MSG-LD, or `task` contradicts the other keys.
    """
    _require_msgld(config, "a task")
    inpaint = config.data.params.path.stems_to_inpaint
    scale = config.model.params.evaluation_params.unconditional_guidance_scale
    unguided = scale is not None and not any(scale if isinstance(scale, list) else [scale])
    task = config.task or ("arrangement" if inpaint else "generation" if unguided else "separation")
    if task == "arrangement" and not inpaint:
        raise ConfigError(
            f"{config.path}: data.params.path.stems_to_inpaint: found none, expected the stems to generate, "
            "as task is arrangement"
        )
    if task == "separation" and unguided:
        raise ConfigError(
            f"{config.path}: model.params.evaluation_params.unconditional_guidance_scale: found 0, which ignores the "
            "mixture, while task is separation; expected 1 or more"
        )
    return task


def guidance_scale(config: Config) -> float | tuple[float, ...]:
    """The guidance of `task_name(config)`: a number, or one a stem; total generation has none (0)."""
    task = task_name(config)
    scale = config.model.params.evaluation_params.unconditional_guidance_scale
    if task == "generation":
        return 0.0
    if scale is None:
        return 0.0 if task == "arrangement" else 1.0
    return tuple(scale) if isinstance(scale, list) else scale


def condition_dropout(config: Config) -> tuple[float, float]:
    """How often an item's mixture is hidden in training, and in the losses of validation."""
    p = config.model.params
    both = p.cond_stage_config.params.unconditional_prob
    in_training = CONDITION_DROPOUT if both is None else both
    return (in_training if p.cond_drop_prob is None else p.cond_drop_prob), both or 0.0


def vocoder_weights(config: Config) -> tuple[str | None, str]:
    """The vocoder's weights that an MSG-LD configuration names, if any, and the key that names them.

    A file with the published `ddconfig.hifigan_ckpt` keeps it when another vocoder is asked for: it counts for a
    HiFi-GAN alone.
    """
    where = "model.params.first_stage_config.params"
    p = config.model.params.first_stage_config.params
    if not p.vocoder_config.ckpt_path and p.ddconfig.hifigan_ckpt and vocoder_settings(config).kind == "hifigan":
        return p.ddconfig.hifigan_ckpt, f"{where}.ddconfig.hifigan_ckpt"
    return p.vocoder_config.ckpt_path, f"{where}.vocoder_config.ckpt_path"


def latent_cache(config: Config) -> Path | None:
    """The folder of the latent cache, or None where latents are not kept.

    Raises:
        ConfigError: another key asks for what cached latents do not have.
    """
    p = config.data.params
    if not p.latent_cache:
        return None
    if kind(config) != "msgld":
        clash = ("model.target", config.model.target, "an MSG-LD: a first stage trains on waveforms")
    elif changes := augmentation(config):
        name, value = next(iter(changes.items()))
        wanted = "none: what changes stems changes the encoded mixtures"
        clash = (f"data.params.augmentation.{name}", str(value).lower(), wanted)
    elif config.model.params.use_silence_weight:
        clash = ("model.params.use_silence_weight", "true", "false: the cache holds no log-mels to weight by")
    else:
        return Path(p.latent_cache)
    key, found, expected = clash
    raise ConfigError(
        f"{config.path}: {key}: found {found}, while data.params.latent_cache is set, expected {expected}; change it, "
        "or leave data.params.latent_cache empty"
    )


def augmentation(config: Config) -> dict[str, Any]:
    """What is done to training items: the keys of `data.params.augmentation` that are switched on.

    Raises:
        ConfigError: `gain_db` is no range.
    """
    group = config.data.params.augmentation
    if group.gain_db and (len(group.gain_db) != 2 or group.gain_db[0] > group.gain_db[1]):
        raise ConfigError(
            f"{config.path}: data.params.augmentation.gain_db: found {group.gain_db}, expected [lowest, highest] in dB"
        )
    values = {f.name: getattr(group, f.name) for f in fields(group)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if value}


def mel_settings(config: Config) -> MelSettings:
    """The mel front end that `data.params.preprocessing` describes; the keys are checked against each other."""
    p = config.data.params.preprocessing
    at = f"{config.path}: data.params.preprocessing"
    if p.stft.win_length > p.stft.filter_length:
        raise ConfigError(f"{at}.stft.win_length: found {p.stft.win_length}, expected at most filter_length")
    nyquist = p.audio.sampling_rate / 2
    if not p.mel.mel_fmin < p.mel.mel_fmax <= nyquist:
        raise ConfigError(
            f"{at}.mel.mel_fmax: found {p.mel.mel_fmax:g}, expected more than mel_fmin {p.mel.mel_fmin:g} and at most "
            f"half the sampling_rate, {nyquist:g}"
        )
    return MelSettings(
        sample_rate=p.audio.sampling_rate,
        n_fft=p.stft.filter_length,
        win_length=p.stft.win_length,
        hop_length=p.stft.hop_length,
        n_mels=p.mel.n_mel_channels,
        f_min=p.mel.mel_fmin,
        f_max=p.mel.mel_fmax,
        frames=p.mel.target_length,
    )


def autoencoder_settings(config: Config) -> AutoencoderSettings:
    """The VAE of an "msgld" or an "autoencoder" configuration."""
    where, params = _first_stage(config)
    dd = params.ddconfig
    if not dd.double_z:
        raise ConfigError(f"{where}.ddconfig.double_z: found false, expected true: the encoder predicts a variance")
    p = config.data.params.preprocessing
    bins, rate = "data.params.preprocessing.mel.n_mel_channels", "data.params.preprocessing.audio.sampling_rate"
    _require_equal(f"{where}.ddconfig.mel_bins", dd.mel_bins, bins, p.mel.n_mel_channels)
    _require_equal(f"{where}.sampling_rate", params.sampling_rate, rate, p.audio.sampling_rate)
    settings = AutoencoderSettings(
        kind=dd.kind,
        ch=dd.ch,
        ch_mult=tuple(dd.ch_mult),
        num_res_blocks=dd.num_res_blocks,
        attn_resolutions=tuple(dd.attn_resolutions),
        resolution=dd.resolution,
        z_channels=dd.z_channels,
        embed_dim=params.embed_dim,
        in_channels=dd.in_channels,
        out_ch=dd.out_ch,
        dropout=dd.dropout,
        num_groups=dd.num_groups,
    )
    for name, size in (("target_length", p.mel.target_length), ("n_mel_channels", p.mel.n_mel_channels)):
        if size % settings.reduction:
            raise ConfigError(
                f"{config.path}: data.params.preprocessing.mel.{name}: found {size}, expected a multiple of "
                f"{settings.reduction}, the reduction of {len(dd.ch_mult)} levels in ddconfig.ch_mult"
            )
    return settings


def vocoder_settings(config: Config) -> VocoderSettings:
    """The vocoder of an "msgld" or a "vocoder" configuration."""
    if kind(config) == "vocoder":
        where, vocoder = f"{config.path}: model.params.vocoder_config", config.model.params.vocoder_config
    else:
        where, params = _first_stage(config)
        where, vocoder = f"{where}.vocoder_config", params.vocoder_config
    p = config.data.params.preprocessing
    target = lookup(vocoder.target, ("vocoder", "spectral_vocoder", "griffin_lim"), f"{where}.target")
    if target == "griffin_lim":
        if kind(config) == "vocoder":
            raise ConfigError(f"{where}.target: found {vocoder.target}, which has no weights, expected another vocoder")
        return VocoderSettings(kind="griffin_lim", num_mels=p.mel.n_mel_channels)
    where, sizes = f"{where}.params", vocoder.params
    if target == "spectral_vocoder":
        names = ("width", "blocks", "phase_iterations", "band_iterations")
        values = {name: getattr(sizes, name) for name in names}
        return VocoderSettings(kind="spectral", num_mels=p.mel.n_mel_channels, **values)
    if math.prod(sizes.upsample_rates) != p.stft.hop_length:
        raise ConfigError(
            f"{where}.upsample_rates: found {sizes.upsample_rates}, which multiply to "
            f"{math.prod(sizes.upsample_rates)}, expected data.params.preprocessing.stft.hop_length {p.stft.hop_length}"
        )
    for one, other in (
        ("upsample_kernel_sizes", "upsample_rates"),
        ("resblock_dilation_sizes", "resblock_kernel_sizes"),
    ):
        if len(getattr(sizes, one)) != len(getattr(sizes, other)):
            raise ConfigError(
                f"{where}.{one}: found {len(getattr(sizes, one))} entries, "
                f"expected one for each of the {len(getattr(sizes, other))} {other}"
            )
    return VocoderSettings(
        num_mels=p.mel.n_mel_channels,
        upsample_initial_channel=sizes.upsample_initial_channel,
        upsample_rates=tuple(sizes.upsample_rates),
        upsample_kernel_sizes=tuple(sizes.upsample_kernel_sizes),
        resblock_kernel_sizes=tuple(sizes.resblock_kernel_sizes),
        resblock_dilation_sizes=tuple(tuple(dilations) for dilations in sizes.resblock_dilation_sizes),
    )


def model_settings(config: Config) -> ModelSettings:
    """Everything that an MSG-LD is built from, as `latent_diffusion` wants it.

    Raises:
        ConfigError: the model is no MSG-LD, or keys contradict each other; both keys are named.
    """
    _require_msgld(config, "model settings")
    p = config.model.params
    stems = config.data.params.path.stems
    autoencoder, mel = autoencoder_settings(config), mel_settings(config)
    where = f"{config.path}: model.params"
    _require_equal(f"{where}.num_stems", p.num_stems, "the number of data.params.path.stems", len(stems))
    u = p.unet_config.params
    for name in ("in_channels", "out_channels"):
        wanted = "the number of data.params.path.stems"
        _require_equal(f"{where}.unet_config.params.{name}", getattr(u, name), wanted, len(stems))
    frames, bins = mel.frames // autoencoder.reduction, mel.n_mels // autoencoder.reduction
    by = f"by {autoencoder.reduction}, the first stage's reduction"
    _require_equal(f"{where}.latent_t_size", p.latent_t_size, f"mel.target_length {mel.frames} {by}", frames)
    _require_equal(f"{where}.latent_f_size", p.latent_f_size, f"mel.n_mel_channels {mel.n_mels} {by}", bins)
    if p.channels != autoencoder.embed_dim:  # which this project's first files said
        _require_equal(f"{where}.channels", p.channels, "the number of data.params.path.stems", len(stems))
    diffusion = DiffusionSettings(p.timesteps, p.linear_start, p.linear_end, p.parameterization)
    try:
        if lookup(p.unet_config.target, ("unet", "stem_transformer"), f"{where}.unet_config.target") == "unet":
            network = _unet(f"{where}.unet_config.params", u, len(stems), (frames, bins))
        else:
            sizes = (len(stems), autoencoder.embed_dim, bins, u.width, u.depth, u.heads, u.kernel_size)
            network = StemTransformerSettings(*sizes, dropout=u.dropout)
        return ModelSettings(tuple(stems), mel, autoencoder, vocoder_settings(config), network, diffusion)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(config.path)) else f"{config.path}: {text}") from None


def _unet(where: str, u: UNetParams, stems: int, latent: tuple[int, int]) -> UNetSettings:
    """The U-Net for latents of (frames, bins).

    Raises:
        ConfigError: its levels or heads do not fit.
    """
    halvings = 2 ** (len(u.channel_mult) - 1)
    for name, size in zip(("frames", "bins"), latent, strict=True):
        if size % halvings:
            raise ConfigError(
                f"{where}.channel_mult: found {len(u.channel_mult)} levels, which need latent "
                f"{name} in multiples of {halvings}, but there are {size}; use fewer levels or another window"
            )
    _check_heads(where, u)
    return UNetSettings(
        in_channels=stems,
        out_channels=stems,
        model_channels=u.model_channels,
        num_res_blocks=u.num_res_blocks,
        channel_mult=tuple(u.channel_mult),
        attention_resolutions=tuple(u.attention_resolutions),
        num_head_channels=u.num_head_channels,
        dropout=u.dropout,
        use_scale_shift_norm=u.use_scale_shift_norm,
        num_groups=u.num_groups,
    )


def _require_msgld(config: Config, what: str) -> None:
    found = kind(config)
    if found != "msgld":
        raise ConfigError(f"{config.path}: model.target: found a {found}, expected an MSG-LD: only that has {what}")


def _require_equal(key: str, found: int | None, of: str, expected: Any) -> None:
    """Compare a key that may be left empty with what it follows from."""
    if found is not None and found != expected:
        raise ConfigError(f"{key}: found {found}, expected {expected} ({of})")


def _first_stage(config: Config) -> tuple[str, FirstStageParams]:
    """Where the VAE's keys lie, and the keys."""
    if kind(config) == "vocoder":
        raise ConfigError(f"{config.path}: model.target: found a vocoder, expected an MSG-LD or an autoencoder")
    if kind(config) == "autoencoder":
        return f"{config.path}: model.params", config.model.params
    return f"{config.path}: model.params.first_stage_config.params", config.model.params.first_stage_config.params


def _check_heads(where: str, unet: UNetParams) -> None:
    """Attention needs whole heads at the levels that have it, and in the middle, which is as wide as the last level."""
    last = len(unet.channel_mult) - 1
    for level, multiple in enumerate(unet.channel_mult):
        width = multiple * unet.model_channels
        if (level == last or 2**level in unet.attention_resolutions) and width % unet.num_head_channels:
            raise ConfigError(
                f"{where}.num_head_channels: found {unet.num_head_channels}, expected a divisor of {width}, "
                f"model_channels times the {multiple} of channel_mult"
            )
