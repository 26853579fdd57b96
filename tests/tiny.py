"""Networks, songs and configurations small enough to train in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from torch import Tensor

from latent_diffusion.ema import EMA
from latent_diffusion.inference import MultiTrackPipeline
from latent_diffusion.musicldm import EvaluationSettings, MusicLDM, TrainingSettings
from latent_diffusion.settings import (
    AutoencoderSettings,
    DiffusionSettings,
    MelSettings,
    ModelSettings,
    UNetSettings,
    VocoderSettings,
)

STEMS = ("bass", "drums", "guitar", "piano")
MEL = MelSettings(sample_rate=4000, n_fft=256, win_length=256, hop_length=40, n_mels=16, f_max=2000.0, frames=32)
AUTOENCODER = AutoencoderSettings(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, embed_dim=4, num_groups=4)
VOCODER = VocoderSettings(
    num_mels=16,
    upsample_initial_channel=16,
    upsample_rates=(5, 4, 2),
    upsample_kernel_sizes=(11, 8, 4),
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 3),),
)


def settings(stems: tuple[str, ...] = STEMS, **diffusion: Any) -> ModelSettings:
    """A model of 0.32 s windows at 4 kHz; its latents are (4, 16, 8)."""
    unet = UNetSettings(len(stems), len(stems), 8, 1, (1, 2), (2,), 8, num_groups=4)
    return ModelSettings(stems, MEL, AUTOENCODER, VOCODER, unet, DiffusionSettings(**diffusion))


def model(
    stems: tuple[str, ...] = STEMS,
    training: TrainingSettings | None = None,
    evaluation: EvaluationSettings | None = None,
    seed: int = 0,
    **diffusion: Any,
) -> MusicLDM:
    """A model whose weights are random everywhere, layers that start at zero included."""
    torch.manual_seed(seed)
    made = MusicLDM(settings(stems, **diffusion), training, evaluation)
    with torch.no_grad():
        for parameter in made.model.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.05)
        if made.model_ema is not None:
            made.model_ema = EMA(made.model, float(made.model_ema.decay))
        # new vocoders are next to silence, and their biases drown what little depends on the input
        for parameter in made.first_stage_model.vocoder.parameters():
            parameter.normal_(0.0, 1.0 / parameter[0].numel() ** 0.5) if parameter.dim() > 1 else parameter.zero_()
        made.first_stage_model.decoder.conv_out.weight.mul_(5.0)
        made.first_stage_model.quant_conv.bias[AUTOENCODER.embed_dim :] = -8.0  # narrow posteriors, as trained ones
    return made


def pipeline(stems: tuple[str, ...] = STEMS) -> MultiTrackPipeline:
    """A pipeline over such a model."""
    made = model(stems, parameterization="v")
    made.eval()
    return made.pipeline


def tones(samples: int, stems: int = 4, seed: int = 0, rate: int = MEL.sample_rate) -> Tensor:
    """Harmonic tones (stems, samples) that differ between stems."""
    generator = torch.Generator().manual_seed(seed)
    hz = 80 + 400 * torch.rand(stems, 1, generator=generator)
    t = torch.arange(samples) / rate
    return 0.15 * (torch.sin(2 * torch.pi * hz * t) + 0.5 * torch.sin(4 * torch.pi * hz * t))


def batch(items: int = 2, stems: int = 4, seed: int = 0) -> dict[str, Any]:
    """A batch as the data module makes it."""
    waveforms = torch.stack([tones(MEL.window_samples, stems, seed * 100 + i) for i in range(items)])
    names = [f"Track{i}_from_0" for i in range(items)]
    return {"stems": waveforms, "mixture": waveforms.sum(1).clamp(-1, 1), "name": names}


def write_songs(folder: Path, tracks: int, seconds: float, seed: int = 0, stems: tuple[str, ...] = STEMS) -> Path:
    """A split `<folder>/<track>/<stem>.wav`."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * MEL.sample_rate)
    for number in range(tracks):
        track = folder / f"Track{number:05d}"
        track.mkdir(parents=True)
        tone = tones(samples, len(stems), seed * 1000 + number).numpy()
        waveforms = tone + 0.01 * rng.standard_normal((len(stems), samples))
        for stem, waveform in zip(stems, waveforms, strict=True):
            soundfile.write(track / f"{stem}.wav", waveform, MEL.sample_rate)
    return folder


def config(root: Path, kind: str = "msgld", **trainer: Any) -> dict[str, Any]:
    """A configuration of the tiny networks over `root/train` and `root/valid`.

    Args:
        root: holds the songs, the weights `vae.ckpt` and `vocoder.ckpt`, and the runs.
        kind: msgld, vae or vocoder.
        trainer: keys of its `trainer` group.
    """
    ddconfig = {"ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "z_channels": 4, "num_groups": 4}
    vocoder = {
        "upsample_initial_channel": 16,
        "upsample_rates": [5, 4, 2],
        "upsample_kernel_sizes": [11, 8, 4],
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3]],
    }
    path = {"train_data": str(root / "train"), "valid_data": str(root / "valid"), "stems": list(STEMS)}
    preprocessing = {
        "audio": {"sampling_rate": 4000},
        "stft": {"filter_length": 256, "hop_length": 40, "win_length": 256},
        "mel": {"n_mel_channels": 16, "mel_fmax": 2000, "target_length": 32},
    }
    return {
        "project_name": "tiny",
        "log_directory": str(root / "runs"),
        "mode": "train",
        "id": {"name": kind},
        "trainer": {"accelerator": "cpu", "logger": [], "save_top_k": 0, "num_sanity_val_steps": 0, **trainer},
        "data": {"params": {"batch_size": 2, "num_workers": 0, "path": path, "preprocessing": preprocessing}},
        "model": {"msgld": msgld_config, "vae": vae_config, "vocoder": vocoder_config}[kind](root, ddconfig, vocoder),
    }


def msgld_config(root: Path, ddconfig: dict[str, Any], vocoder: dict[str, Any]) -> dict[str, Any]:
    """The model's half for an MSG-LD; it has dropout, so that every source of randomness takes part."""
    first_stage = {"reload_from_ckpt": str(root / "vae.ckpt"), "embed_dim": 4, "ddconfig": ddconfig}
    first_stage["vocoder_config"] = {"ckpt_path": str(root / "vocoder.ckpt"), "params": vocoder}
    unet = {"model_channels": 8, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [2]}
    return {
        "target": "latent_diffusion.musicldm.MusicLDM",
        "params": {
            "base_learning_rate": 1e-3,
            "warmup_steps": 4,
            "cond_drop_prob": 0.3,
            "learn_logvar": True,
            "unet_config": {"params": {**unet, "num_head_channels": 8, "num_groups": 4, "dropout": 0.1}},
            "first_stage_config": {"params": first_stage},
            "evaluation_params": {"ddim_sampling_steps": 2},
        },
    }


def vae_config(root: Path, ddconfig: dict[str, Any], vocoder: dict[str, Any]) -> dict[str, Any]:
    """The model's half for a VAE, its discriminator included."""
    loss = {"disc_start": 2, "disc_channels": 4, "disc_num_layers": 1}
    return {
        "target": "latent_diffusion.first_stage.training.AutoencoderTraining",
        "params": {"embed_dim": 4, "ddconfig": ddconfig, "lossconfig": {"params": loss}},
    }


def vocoder_config(root: Path, ddconfig: dict[str, Any], vocoder: dict[str, Any]) -> dict[str, Any]:
    """The model's half for a vocoder, its discriminators included."""
    loss = {"disc_start": 2, "disc_periods": [2], "disc_period_channels": 2, "disc_scales": 1, "disc_scale_channels": 4}
    return {
        "target": "latent_diffusion.first_stage.training.VocoderTraining",
        "params": {"segment_frames": 16, "vocoder_config": {"params": vocoder}, "lossconfig": {"params": loss}},
    }


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """The configuration as a YAML file."""
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def write_first_stage(root: Path, seed: int = 0) -> None:
    """Random weights `vae.ckpt` and `vocoder.ckpt`, in the formats of the published files."""
    from latent_diffusion.first_stage import AutoencoderKL, HiFiGAN

    torch.manual_seed(seed)
    torch.save({"state_dict": AutoencoderKL(AUTOENCODER).state_dict()}, root / "vae.ckpt")
    torch.save({"generator": HiFiGAN(VOCODER).state_dict()}, root / "vocoder.ckpt")
