"""What the command line does with weights files: say what one is, with the configuration that fits it, and convert."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from latent_diffusion.checkpoints import KINDS
from latent_diffusion.checkpoints import convert as convert_weights
from latent_diffusion.inspection import Summary, summarise
from latent_diffusion.settings import (
    AutoencoderSettings,
    DiffusionSettings,
    MelSettings,
    ModelSettings,
    StemTransformerSettings,
    UNetSettings,
    VocoderSettings,
)

from .config_schema import dump_yaml

TARGETS = {
    "msgld": "latent_diffusion.musicldm.MusicLDM",
    "autoencoder": "latent_diffusion.first_stage.training.AutoencoderTraining",
    "vocoder": "latent_diffusion.first_stage.training.VocoderTraining",
}
VOCODER_TARGETS = {
    "spectral": "latent_diffusion.first_stage.SpectralVocoder",
    "griffin_lim": "latent_diffusion.first_stage.GriffinLim",
}
TRANSFORMER_SIZES = ("width", "depth", "heads", "kernel_size", "dropout")
SPECTRAL_SIZES = ("width", "blocks", "phase_iterations", "band_iterations")
ALWAYS = {  # shown even where they are the defaults: what one looks for in a configuration
    "model_channels",
    "num_res_blocks",
    "channel_mult",
    "attention_resolutions",
    "ch",
    "ch_mult",
    "attn_resolutions",
    "z_channels",
    "embed_dim",
    "upsample_initial_channel",
    "upsample_rates",
    "upsample_kernel_sizes",
    "resblock_kernel_sizes",
    "resblock_dilation_sizes",
    "timesteps",
    "linear_start",
    "linear_end",
}
MEL_KEYS = {
    "sample_rate": ("audio", "sampling_rate"),
    "n_fft": ("stft", "filter_length"),
    "win_length": ("stft", "win_length"),
    "hop_length": ("stft", "hop_length"),
    "n_mels": ("mel", "n_mel_channels"),
    "f_min": ("mel", "mel_fmin"),
    "f_max": ("mel", "mel_fmax"),
    "frames": ("mel", "target_length"),
}


def describe_weights(path: str | Path) -> str:
    """What a weights file is, and the configuration that fits it, as text.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return f"{facts(summary := summarise(path))}\n\n{snippet(summary)}"


def convert(source: str, target: str, keep: str, half: bool, force: bool, vocoder: str | None = None) -> str:
    """Convert a weights file (see `latent_diffusion.checkpoints.convert`) and say what came out."""
    written = convert_weights(source, target, keep, half, force, vocoder)
    sizes = [Path(path).stat().st_size / 1e6 for path in (source, written)]
    return f"{written}: {sizes[1]:,.1f} MB (of {sizes[0]:,.1f} MB)"


# ---- facts -----------------------------------------------------------------------------------------------------------


def facts(s: Summary) -> str:
    """The facts of a summary, one a line."""
    whose = "this project" if s.own else "the published layout"
    lines = [("file", f"{s.path} ({s.size_bytes / 1e6:,.1f} MB)"), ("kind", f"{KINDS[s.kind]}, {whose}")]
    if isinstance(s.settings, ModelSettings):
        lines += _msgld_facts(s, s.settings)
    elif isinstance(s.settings, AutoencoderSettings):
        a = s.settings
        levels = " ".join(str(a.ch * mult) for mult in a.ch_mult)
        lines += [
            ("width", str(a.ch)),
            ("levels", f"{len(a.ch_mult)}: {levels} channels, {a.num_res_blocks} blocks each"),
        ]
        lines.append(("latent", f"{a.embed_dim} channels, time and frequency reduced by {a.reduction}"))
    else:
        lines += _vocoder_facts(s, s.settings)
    if s.step is not None:
        lines.append(("step", f"{s.step:,}" + (f" (epoch {s.epoch})" if s.epoch is not None else "")))
    lines.append(("parameters", f"{s.parameters:,} in the networks, each counted once"))
    for name, group in s.groups.items():
        dtypes = ", ".join(sorted(group.dtypes))
        role = "" if group.used else "; left out in loading"
        lines.append((f"  {name}", f"{group.tensors} tensors, {group.values:,} values, {dtypes}{role}"))
    lines.append(
        ("training", "optimiser's state is there" if s.training_state else "no optimiser's state: weights only")
    )
    return "\n".join(f"{name:<18} {value}" for name, value in lines)


def _vocoder_facts(s: Summary, v: VocoderSettings) -> list[tuple[str, str]]:
    if v.kind == "spectral":
        search = f"{v.phase_iterations} iterations for phases, {v.band_iterations} for bands"
        return [
            ("architecture", "spectral"),
            ("width", f"{v.width}, {v.blocks} blocks"),
            ("synthesis", search),
            ("mel bins", str(v.num_mels)),
        ]
    rates = " ".join(str(rate) for rate in v.upsample_rates)
    return [
        ("architecture", "HiFi-GAN"),
        ("width", str(v.upsample_initial_channel)),
        ("upsampling", f"{rates} (hop {s.mel.hop_length})"),
        ("mel bins", str(v.num_mels)),
        ("weight norm", "yes" if s.weight_norm else "no, folded into the weights"),
    ]


def _network_facts(u: UNetSettings | StemTransformerSettings) -> list[tuple[str, str]]:
    if isinstance(u, StemTransformerSettings):
        return [
            ("network", "transformer over latent frames"),
            ("width", f"{u.width}, {u.depth} blocks, {u.heads} heads"),
        ]
    levels = " ".join(str(u.model_channels * mult) for mult in u.channel_mult)
    attention = " ".join(str(factor) for factor in u.attention_resolutions) or "none"
    blocks = f"{u.num_res_blocks} blocks each, attention at {attention}"
    return [("width", f"{u.model_channels}"), ("levels", f"{len(u.channel_mult)}: {levels} channels, {blocks}")]


def _msgld_facts(s: Summary, m: ModelSettings) -> list[tuple[str, str]]:
    channels, frames, bins = m.latent_shape
    guess = "" if s.own else " (names and order as published: the file tells only their number)"
    window = "" if s.own else f"; the window of {m.mel.frames} frames is the published one, any length works"
    scale = "missing" if s.scale is None else " ".join(f"{value:.7g}" for value in s.scale[:8])
    if s.scale is not None and len(s.scale) > 8:
        scale += f" ... ({len(s.scale)} numbers)"
    d = m.diffusion
    return [
        ("stems", f"{len(m.stems)}: {', '.join(m.stems)}{guess}"),
        *_network_facts(m.unet),
        ("latent", f"{channels} x {frames} x {bins} a stem{window}"),
        ("EMA", "no" if s.ema_updates is None else f"yes, {s.ema_updates:,} updates, decay {s.ema_decay:g}"),
        ("scale factor", scale),
        (
            "schedule",
            f"{d.timesteps} steps, betas {d.linear_start:g} to {d.linear_end:g}, predicts {d.parameterization}",
        ),
    ]


# ---- the configuration that fits -------------------------------------------------------------------------------------


def snippet(s: Summary) -> str:
    """YAML that `load_config` reads to exactly the settings of the file; data folders are left to the user."""
    return f"# The configuration that fits {s.path.name}; add data.params.path.train_data or valid_data.\n" + dump_yaml(
        snippet_values(s)
    )


def snippet_values(s: Summary) -> dict[str, Any]:
    """The same as nested dicts."""
    mel = {}
    for name, (group, key) in MEL_KEYS.items():
        if getattr(s.mel, name) != getattr(MelSettings(), name) or name in ("sample_rate", "n_mels", "frames"):
            mel.setdefault(group, {})[key] = getattr(s.mel, name)
    data: dict[str, Any] = {"preprocessing": mel}
    if isinstance(s.settings, ModelSettings):
        m = s.settings
        data = {"path": {"stems": list(m.stems)}} | data
        stage = {"embed_dim": m.autoencoder.embed_dim, "ddconfig": _shown(m.autoencoder, AutoencoderSettings())}
        stage["vocoder_config"] = _vocoder_config(m.vocoder)
        params: dict[str, Any] = _shown(m.diffusion, DiffusionSettings())
        if s.ema_updates is None and not s.own:
            params["ema_decay"] = None
        elif s.ema_decay is not None:
            params["ema_decay"] = s.ema_decay
        if s.scale is not None and len(s.scale) > 1:
            by_channel = len(s.scale) == m.autoencoder.embed_dim
            params["scale_per_channel" if by_channel else "scale_per_band"] = True
        params |= {"ckpt_path": str(s.path), "unet_config": _unet_config(m.unet)}
        params["first_stage_config"] = {"params": stage}
    elif isinstance(s.settings, AutoencoderSettings):
        params = {"ckpt_path": str(s.path), "embed_dim": s.settings.embed_dim}
        params["ddconfig"] = _shown(s.settings, AutoencoderSettings())
    else:
        params = {"vocoder_config": {"ckpt_path": str(s.path)} | _vocoder_config(s.settings)}
    return {"data": {"params": data}, "model": {"target": TARGETS[s.kind], "params": params}}


def _unet_config(network: UNetSettings | StemTransformerSettings) -> dict[str, Any]:
    """The keys of `unet_config`."""
    if isinstance(network, UNetSettings):
        return {"params": _shown(network, UNetSettings())}
    params = {name: getattr(network, name) for name in TRANSFORMER_SIZES}
    return {"target": "latent_diffusion.networks.StemTransformer", "params": params}


def _vocoder_config(vocoder: VocoderSettings) -> dict[str, Any]:
    """The keys of `vocoder_config`: the class, where it is not HiFi-GAN, and the sizes that it has."""
    if vocoder.kind == "hifigan":
        return {"params": _shown(vocoder, VocoderSettings())}
    config: dict[str, Any] = {"target": VOCODER_TARGETS[vocoder.kind]}
    if vocoder.kind == "spectral":
        config["params"] = {name: getattr(vocoder, name) for name in SPECTRAL_SIZES}
    return config


def _shown(settings: Any, defaults: Any) -> dict[str, Any]:
    """Settings as keys of the schema: the main ones, and what differs from the defaults."""
    shown = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        elsewhere = field.name in ("embed_dim", "num_mels") or (
            field.name[-8:] == "channels" and field.name[:3] in ("in_", "out")
        )
        if not elsewhere and (field.name in ALWAYS or value != getattr(defaults, field.name)):
            shown[field.name] = _plain(value)
    return shown


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
